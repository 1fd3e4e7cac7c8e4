import { useSignal } from "@preact/signals";
import type { Notification } from "@towpath/client";
import { useEffect, useId } from "preact/hooks";

import type { Words } from "../i18n/en.ts";
import { DICTIONARIES, type LanguageName } from "../i18n/language.ts";
import { describe } from "../i18n/errors.ts";
import { target } from "../model/notifications.ts";
import type { MailPreferences } from "../state/notifications.ts";
import { useApp, useLanguage, useSession, useWords } from "./context.ts";
import { Dialog } from "./dialog.tsx";
import { Field } from "./field.tsx";
import { Icon } from "./icons.tsx";

/** The longest address of a mailbox: RFC 5321. */
const LONGEST_EMAIL = 254;
const LANGUAGES = Object.keys(DICTIONARIES) as LanguageName[];

/** The bell in the bar, with the number of what is unread; nothing where no service has notifications. */
export function Bell() {
  const app = useApp();
  const { notifications } = useSession();
  const { words, number } = useLanguage();
  if (!notifications.isThere.value) return null;
  const { unread } = notifications.all.value;
  const heard = notifications.heard.value;
  return (
    <>
      <button
        type="button"
        class="quiet icon-only bell"
        data-testid="bell"
        data-unread={unread}
        aria-haspopup="dialog"
        aria-label={unread > 0 ? `${words.notifications.title}, ${words.notifications.unread(unread)}` : words.notifications.title}
        onClick={() => (app.dialog.value = "notifications")}
      >
        <Icon name="bell" />
        {unread > 0 && (
          <span class="count" aria-hidden="true">
            {unread > 99 ? "99+" : number(unread)}
          </span>
        )}
      </button>
      <span class="unseen" role="status">
        {heard && `${heard.title}: ${heard.text}`}
      </span>
    </>
  );
}

/** The notifications, newest first, and which of them are sent as mails. */
export function NotificationList() {
  const app = useApp();
  const { notifications } = useSession();
  const { words } = useLanguage();
  const { list, unread, readSeq, hasOlder } = notifications.all.value;
  const attempt = (deed: () => Promise<void>) => app.notices.attempt("notifications", deed);
  return (
    <Dialog
      title={words.notifications.title}
      onClose={() => (app.dialog.value = null)}
      class="narrow"
      testId="notifications-dialog"
    >
      {list.length === 0 && <p class="empty">{words.notifications.none}</p>}
      {unread > 0 && (
        <div class="choices">
          <button type="button" class="small" data-testid="mark-read" onClick={() => void attempt(() => notifications.markRead())}>
            {words.notifications.markRead}
          </button>
        </div>
      )}
      <ul class="notifications" data-testid="notifications">
        {list.map((one) => (
          <Entry key={one.seq} one={one} isUnread={one.seq > readSeq} />
        ))}
      </ul>
      {hasOlder && (
        <button type="button" class="quiet" data-testid="older-notifications" onClick={() => void attempt(() => notifications.loadOlder())}>
          {words.notifications.older}
        </button>
      )}
      <details>
        <summary data-testid="mail-preferences">{words.notifications.mails}</summary>
        <MailForm />
      </details>
    </Dialog>
  );
}

function Entry({ one, isUnread }: { one: Notification; isUnread: boolean }) {
  const app = useApp();
  const { words, moment } = useLanguage();
  const to = target(one);
  const go = () => {
    app.dialog.value = null;
    if (to === null) return;
    if ("room" in to) app.place.room(to.room);
    else app.place.view("orders");
  };
  return (
    <li data-testid="notification" data-kind={one.kind} data-unread={isUnread}>
      <p class="notification-title">
        {isUnread && <span class="unseen">{words.notifications.isUnread}</span>}
        <strong>{one.title}</strong>
        <time datetime={new Date(one.created_at).toISOString()}>{moment(one.created_at, Date.now())}</time>
      </p>
      <p dir="auto">{one.text}</p>
      {to !== null && (
        <button type="button" class="quiet small" onClick={go}>
          {"room" in to ? words.notifications.toRoom : words.notifications.toOrder}
        </button>
      )}
    </li>
  );
}

function MailForm() {
  const { notifications } = useSession();
  const words = useWords();
  const languageId = useId();
  const known = useSignal<MailPreferences | null>(null);
  const kinds = useSignal<ReadonlySet<string>>(new Set());
  const [email, language] = [useSignal(""), useSignal("en")];
  const problem = useSignal<((now: Words) => string) | null>(null);
  const isSaved = useSignal(false);

  const take = (preferences: MailPreferences) => {
    known.value = preferences;
    email.value = preferences.email ?? "";
    language.value = preferences.language;
    kinds.value = new Set(preferences.kinds);
  };
  const attempt = async (deed: () => Promise<MailPreferences>) => {
    problem.value = null;
    try {
      take(await deed());
      return true;
    } catch (error) {
      problem.value = (now) => describe(error, now);
      return false;
    }
  };
  useEffect(() => void attempt(() => notifications.preferences()), []);
  const save = async () => {
    const changes = { email: email.value.trim() || null, language: language.value, kinds: [...kinds.value] };
    isSaved.value = await attempt(() => notifications.preferences(changes));
  };
  const toggle = (kind: string, isWanted: boolean) => {
    const wanted = new Set(kinds.value);
    if (isWanted) wanted.add(kind);
    else wanted.delete(kind);
    [kinds.value, isSaved.value] = [wanted, false];
  };
  return (
    <form
      class="stack"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void save();
      }}
    >
      <Field
        label={words.notifications.email}
        hint={words.notifications.emailHint}
        problem={problem.value?.(words) ?? ""}
        value={email.value}
        limit={LONGEST_EMAIL}
        onText={(text) => ([email.value, isSaved.value] = [text, false])}
        data-testid="mail-address"
        autocomplete="email"
        autocapitalize="none"
        spellcheck={false}
      />
      <div class="setting">
        <label for={languageId}>{words.menu.language}</label>
        <select
          id={languageId}
          data-testid="mail-language"
          value={language.value}
          onChange={(event) => ([language.value, isSaved.value] = [event.currentTarget.value, false])}
        >
          {LANGUAGES.map((name) => (
            <option key={name} value={name} lang={DICTIONARIES[name].tag}>
              {DICTIONARIES[name].language}
            </option>
          ))}
        </select>
      </div>
      <fieldset class="kinds">
        <legend>{words.notifications.about}</legend>
        {Object.entries(words.notifications.kinds).map(([kind, said]) => (
          <label key={kind} class="check">
            <input
              type="checkbox"
              data-testid={`mail-${kind}`}
              checked={kinds.value.has(kind)}
              onChange={(event) => toggle(kind, event.currentTarget.checked)}
            />
            {said}
          </label>
        ))}
      </fieldset>
      <button type="submit" class="primary" data-testid="save-mail" disabled={known.value === null}>
        {words.conversation.save}
      </button>
      <p class="hint" role="status">
        {isSaved.value && words.notifications.saved}
      </p>
    </form>
  );
}
