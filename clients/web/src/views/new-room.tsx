import { useSignal } from "@preact/signals";

import { describe } from "../i18n/errors.ts";
import { LIMITS, excess } from "../model/letters.ts";
import { useApp, useSession, useWords } from "./context.ts";
import { Dialog } from "./dialog.tsx";
import { Field } from "./field.tsx";

/** Makes a room: its name, a title to show, and whether it is private. */
export function NewRoom() {
  const app = useApp();
  const { chat } = useSession();
  const words = useWords();
  const name = useSignal("");
  const title = useSignal("");
  const isPrivate = useSignal(false);
  const problem = useSignal<unknown>(null);
  const isBusy = useSignal(false);
  const isNameMissing = useSignal(false);

  const create = async () => {
    const [itsName, itsTitle] = [name.value.trim(), title.value.trim()];
    problem.value = null;
    isNameMissing.value = itsName === "";
    if (itsName === "" || excess(itsName, LIMITS.roomName) > 0 || excess(itsTitle, LIMITS.roomTitle) > 0) return;
    isBusy.value = true;
    try {
      const room = await chat.create(itsName, { title: itsTitle, isPrivate: isPrivate.value });
      app.dialog.value = null;
      app.place.room(room);
    } catch (error) {
      problem.value = error;
    } finally {
      isBusy.value = false;
    }
  };

  const said = isNameMissing.value ? words.newRoom.nameMissing : "";
  return (
    <Dialog
      title={words.newRoom.title}
      onClose={() => (app.dialog.value = null)}
      class="narrow"
      testId="new-room-dialog"
    >
      <form
        class="stack"
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          void create();
        }}
      >
        <Field
          label={words.newRoom.name}
          hint={words.newRoom.nameHint}
          problem={problem.value === null ? said : describe(problem.value, words)}
          value={name.value}
          onText={(text) => (name.value = text)}
          data-testid="new-room-name"
          autocapitalize="none"
          spellcheck={false}
          limit={LIMITS.roomName}
        />
        <Field
          label={words.newRoom.roomTitle}
          placeholder={words.optional}
          value={title.value}
          onText={(text) => (title.value = text)}
          data-testid="new-room-title"
          limit={LIMITS.roomTitle}
        />
        <label class="check">
          <input
            type="checkbox"
            data-testid="new-room-private"
            checked={isPrivate.value}
            onChange={(event) => (isPrivate.value = event.currentTarget.checked)}
          />
          {words.newRoom.isPrivate}
        </label>
        <button type="submit" class="primary" data-testid="create-room" disabled={isBusy.value}>
          {words.newRoom.create}
        </button>
      </form>
    </Dialog>
  );
}
