import { describe } from "../i18n/errors.ts";
import { useApp, useSession, useWords } from "./context.ts";

/** The state of the connection and its gateway; always in sight. */
export function ConnectionPill() {
  const { connection } = useSession();
  const words = useWords().connection;
  const state = connection.state.value;
  const [gateway, seconds] = [connection.gateway.value, connection.retryIn.value];
  return (
    <p class="connection" data-testid="connection-state" data-state={state}>
      <span role="status">
        {words[state]}
        {gateway !== null && <span class="gateway"> · {gateway}</span>}
      </span>
      {/* Read out every second it would be a nuisance. */}
      {seconds !== null && (
        <span class="countdown" aria-hidden="true">
          {" · "}
          {seconds > 0 ? words.next(seconds) : words.now}
        </span>
      )}
    </p>
  );
}

/** Once the connection is closed for good: why, and the way back. */
export function ClosedBanner() {
  const app = useApp();
  const { connection } = useSession();
  const words = useWords();
  if (connection.state.value !== "closed") return null;
  const error = connection.error.value;
  return (
    <div class="banner" role="alert" data-testid="closed-banner">
      <p>{error ? describe(error, words) : words.connection.ended}</p>
      <button type="button" data-testid="connect-again" onClick={() => void app.connectAgain()}>
        {words.connection.again}
      </button>
    </div>
  );
}
