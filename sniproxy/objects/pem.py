"""Checks of PEM text, for whoever writes an ssl object and whoever loads one."""

from cryptography import x509
from cryptography.hazmat.primitives import serialization


def check_pair(certificate_pem: str, key_pem: str) -> None:
    """ValueError unless both parse and the key is that of the first certificate. Never holds the key in its message."""
    try:
        leaf = x509.load_pem_x509_certificates(certificate_pem.encode())[0]
        certified = leaf.public_key()
    except Exception:
        raise ValueError("the certificate is not PEM that can be read") from None
    try:
        # The chain of trust ends at whoever wrote the key: checking its primes again costs 100 ms for RSA.
        key = serialization.load_pem_private_key(
            key_pem.encode(), password=None, unsafe_skip_rsa_key_validation=True
        )
    except TypeError:
        raise ValueError("the key is protected by a password; store it without one") from None
    except Exception:
        raise ValueError("the key is not PEM that can be read") from None
    if key.public_key() != certified:
        raise ValueError("the key does not belong to the certificate")


def check_authorities(pem: str) -> None:
    """ValueError unless `pem` holds certificates."""
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except Exception:
        raise ValueError("client.ca is not PEM that can be read") from None
