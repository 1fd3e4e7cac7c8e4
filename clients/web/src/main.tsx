/** Builds the page. The only place that does. */
import { render } from "preact";

import { App } from "./state/app.ts";
import "./styles/index.css";
import { Page } from "./views/page.tsx";

render(<Page app={new App(window)} />, document.getElementById("app")!);
