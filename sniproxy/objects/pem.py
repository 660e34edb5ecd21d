"""Checks of PEM text, for whoever writes an ssl object and whoever loads one. No message holds any of the text."""

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes


def check_pair(certificate_pem: str, key_pem: str) -> None:
    """ValueError unless both parse and the key is that of the first certificate."""
    certified = check_certificate(certificate_pem)
    if check_key(key_pem) != certified:
        raise ValueError("the key does not belong to the certificate")


def check_certificate(pem: str) -> CertificatePublicKeyTypes:
    """The public key of the first certificate of a chain; ValueError unless all of them parse."""
    try:
        return x509.load_pem_x509_certificates(pem.encode())[0].public_key()
    except Exception:
        raise ValueError("the certificate is not PEM that can be read") from None


def check_key(pem: str) -> object:
    """The public key of a private one; ValueError unless that parses."""
    try:
        # The chain of trust ends at whoever wrote the key: checking its primes again costs 100 ms for RSA.
        key = serialization.load_pem_private_key(
            pem.encode(), password=None, unsafe_skip_rsa_key_validation=True
        )
    except TypeError:
        raise ValueError("the key is protected by a password; store it without one") from None
    except Exception:
        raise ValueError("the key is not PEM that can be read") from None
    return key.public_key()


def check_authorities(pem: str, member: str = "client.ca") -> None:
    """ValueError, which names the member, unless `pem` holds certificates."""
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except Exception:
        raise ValueError(f"{member} is not PEM that can be read") from None


def subject_of(der: bytes) -> str:
    """Whose a certificate is, as RFC 4514 writes it: "CN=player,O=Guild"; "" where it cannot be read."""
    try:
        return x509.load_der_x509_certificate(der).subject.rfc4514_string()
    except Exception:  # OpenSSL has taken it, and the two may differ about what is sound
        return ""


def validity(pem: str) -> tuple[int, int]:
    """From when and until when the first certificate of a chain is valid, in Unix seconds; ValueError."""
    try:
        leaf = x509.load_pem_x509_certificates(pem.encode())[0]
        begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except Exception:
        raise ValueError("the certificate's validity cannot be read") from None
    return int(begins.timestamp()), int(ends.timestamp())
