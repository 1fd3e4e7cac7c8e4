import { hue, initials } from "../model/names.ts";

const HUES = 6;

/**
 * A small disc with a name's initials, in a colour that is always the same for the name.
 *
 * `online` puts a dot on it; leave it out where it is unknown.
 */
export function Avatar({ name, online }: { name: string; online?: boolean | undefined }) {
  return (
    <span class="avatar" data-hue={hue(name, HUES)} data-online={online} aria-hidden="true">
      {initials(name)}
    </span>
  );
}
