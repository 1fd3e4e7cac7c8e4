"""Options of addresses with which a connection would not be encrypted, or the server not be verified."""

from typing import Final

WEAK_DATABASE_OPTIONS: Final = [
    *(f"ssl={word}" for word in ("allow", "prefer", "require", "verify-ca", "verify_full", "VERIFY-FULL")),
    *(f"ssl={word}" for word in ("", "true", "True", "1", "no", "none", "0", "no-verify", "verify-full%20")),
    *(f"sslmode={word}" for word in ("disable", "prefer", "require", "verify-ca", "verify-full")),
    "ssl=verify-full&ssl=require",
    "ssl=verify-full&ssl=disable",
    "%73sl=require",
    "ssl=verify-full&sslmode=require",
    "ssl=verify-full&sslrootcert=/dev/null",
    "sslcert=/a&sslkey=/b",
    "sslcrl=/a",
    "sslnegotiation=direct",
    "ssl_min_protocol_version=TLSv1",
    "SSL=require",
    "direct_tls=1",
    "tls=off",
]
WEAK_BROKER_OPTIONS: Final = [
    *(f"no_verify_ssl={word}" for word in ("", "0", "1", "true", "False")),
    "NO_VERIFY_SSL=1",
    "no%5Fverify_ssl=1",
    "cafile=/ca&no_verify_ssl=1",
    "no_verify_ssl=0&no_verify_ssl=1",
    "verify=0",
    "verify=none",
    "verify_ssl=false",
    "ssl_options=verify_none",
    "ssl=0",
    "tls_insecure=1",
    "insecure=1",
    "cadata=aHVudGVyMg",
    "fail_if_no_peer_cert=false",
    "server_name_indication=disable",
]
