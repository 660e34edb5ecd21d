"""TLS alerts by name, as far as OpenSSL lets us know them: a failed handshake should say who complained of what."""

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

# What OpenSSL says of a client certificate that it refuses (ssl_x509err2alert); others: certificate_unknown.
_VERIFY = {
    **dict.fromkeys((2, 3, 18, 19, 20, 21, 22, 24, 33), 48),  # no way to a trusted authority
    **dict.fromkeys((4, 5, 6, 7, 8, 9, 11, 13, 14, 15, 16, 27, 28, 66, 67, 68), 42),
    10: 45,  # expired
    12: 45,
    23: 44,  # revoked
    26: 43,  # not for this purpose
}

_ALERT = 21  # record type
_ENCRYPTED = "an encrypted alert"


def explain_failure(error: ssl.SSLError, sent: bytes, version: str | None) -> str:
    """Which alert a failed handshake ended with, who sent it, and OpenSSL's words for the cause.

    `sent`: the bytes that OpenSSL left to be sent; `version`: as far as it was agreed on.
    """
    reason = (error.reason or "").upper()
    _, alert, theirs = reason.partition("_ALERT_")
    if alert:
        return f"received alert {theirs.lower()}"
    return f"sent {_sent(error, reason, sent, version)}: {cause_of(error)}"


def _sent(error: ssl.SSLError, reason: str, sent: bytes, version: str | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"alert {NAMES[_VERIFY.get(error.verify_code, 46)]}"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE" and version == "TLSv1.3":
        return f"alert {NAMES[116]}"  # RFC 8446 section 4.4.2.4
    last = sent[-7:]
    if len(last) == 7 and last[0] == _ALERT and last[3:5] == b"\0\2":
        return f"alert {NAMES.get(last[6], str(last[6]))}"
    return _ENCRYPTED if sent else "no alert"


def cause_of(error: ssl.SSLError) -> str:
    """OpenSSL's words for it, such as "certificate verify failed: self-signed certificate"."""
    words = (error.reason or error.strerror or type(error).__name__).replace("_", " ").lower()
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{words}: {error.verify_message}"
    return words
