"""TLS alerts by name, as far as OpenSSL lets us know them: a failed handshake should say who complained of what."""

import re
import ssl

# RFC 8446 appendix B.2, and what TLS 1.2 and older have beside it.
NAMES = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    100: "no_renegotiation",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
}

# What OpenSSL 3 says of a client certificate that it refuses (ssl_x509err2alert); others: certificate_unknown.
_VERIFY = {
    **dict.fromkeys((2, 3, 18, 19, 20, 21, 22, 25, 33, 79), 48),  # no way to a trusted authority
    **dict.fromkeys((4, 5, 6, 9, 11, 13, 14, 15, 16, 27, 28, 62, 63, 64, 65, 66, 67, 68, 94), 42),
    **dict.fromkeys((7, 8), 51),  # a signature that does not fit
    **dict.fromkeys((10, 12), 45),  # expired
    **dict.fromkeys((1, 17, 69, 70), 80),
    23: 44,  # revoked
    26: 43,  # not for this purpose
    50: 40,
}

# OpenSSL's name of an alert that came, such as TLSV13_ALERT_CERTIFICATE_REQUIRED or TLSV1_UNRECOGNIZED_NAME; of the few that
# Python has no name for, the words in their place.
_RECEIVED = re.compile(r"(?:sslv3|tlsv1|tlsv13)_(?:alert_)?(\w+?)(?:_\(|$)")
_TOLD = re.compile(r"(sent|received) alert (\w+)")  # of `explain_failure`
_WORDS = frozenset(NAMES.values())
_OTHER_SPELLING = {"user_cancelled": "user_canceled"}

_ALERT = 21  # record type
_FATAL = 2


def explain_failure(error: ssl.SSLError, sent: bytes) -> str:
    """Which alert a failed handshake ended with, who sent it, and OpenSSL's words for the cause.

    `sent`: the bytes that OpenSSL left to be sent.
    """
    if isinstance(error, ssl.SSLZeroReturnError):
        return f"received alert {NAMES[0]}"
    words = (error.reason or error.strerror or "").lower().replace(" ", "_")
    found = _RECEIVED.search(words)
    name = _OTHER_SPELLING.get(found[1], found[1]) if found else None
    if name in NAMES.values():
        return f"received alert {name}"
    return f"sent {_sent(error, sent)}: {cause_of(error)}"


def _sent(error: ssl.SSLError, sent: bytes) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"alert {NAMES[_VERIFY.get(error.verify_code, 46)]}"
    last = sent[-7:]  # an alert in clear is one record: type, version, length 2, level, number
    if len(last) == 7 and last[0] == _ALERT and last[3:6] == bytes((0, 2, _FATAL)):
        return f"alert {NAMES.get(last[6], str(last[6]))}"
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return f"alert {NAMES[116]}"  # encrypted, so this is TLS 1.3 (RFC 8446 section 4.4.2.4)
    return "an encrypted alert" if sent else "no alert"


def failure_cause(detail: str) -> str:
    """What of a failed handshake's detail may be a metric's label: who sent which alert, `closed`, or `other`.

    No more than those words: certificates that a client shows end up in details too.
    """
    found = _TOLD.match(detail)
    if found and found[2] in _WORDS:
        return f"{found[1]}_{found[2]}"
    return "closed" if detail.startswith("closed by ") else "other"


def cause_of(error: ssl.SSLError) -> str:
    """OpenSSL's words for it, such as "certificate verify failed: self-signed certificate"."""
    words = (error.reason or error.strerror or type(error).__name__).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{words}: {error.verify_message}"
    return words
