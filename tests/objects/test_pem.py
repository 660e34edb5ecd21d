"""Pairs of certificate and key: real ones of each kind, wrong ones, and messages that give nothing away."""

import datetime
from functools import cache
from itertools import permutations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from sniproxy.objects.pem import (
    check_authorities,
    check_certificate,
    check_key,
    check_pair,
    validity,
)
from tests.support.certificates import authority_pem, pair

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)

NOT_A_CERTIFICATE = "the certificate is not PEM that can be read"
NOT_A_KEY = "the key is not PEM that can be read"
PROTECTED = "the key is protected by a password; store it without one"
MISMATCH = "the key does not belong to the certificate"

ALGORITHMS = ["rsa", "p256", "p384", "ed25519", "ed448"]


@cache
def key_of(algorithm: str) -> PrivateKey:
    """A fresh key, one per run."""
    match algorithm:
        case "rsa":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
    return ed25519.Ed25519PrivateKey.generate()


def certificate(key: PrivateKey) -> str:
    """Self-signed, for a day."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "play.example.com")])
    start = datetime.datetime(2026, 1, 1)
    edwards = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(key, None if edwards else hashes.SHA256())
    )
    return signed.public_bytes(Encoding.PEM).decode()


def private(
    key: PrivateKey,
    form: PrivateFormat = PrivateFormat.PKCS8,
    protection: serialization.KeySerializationEncryption | None = None,
) -> str:
    """PEM of a key."""
    return key.private_bytes(Encoding.PEM, form, protection or NoEncryption()).decode()


def refuses(certificate_pem: str, key_pem: str, why: str) -> None:
    """The message is `why` and nothing else, and no cause behind it tells more."""
    with pytest.raises(ValueError, match=f"^{why}$") as refused:
        check_pair(certificate_pem, key_pem)
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pair_of_each_algorithm(algorithm: str) -> None:
    key = key_of(algorithm)
    check_pair(certificate(key), private(key))


@pytest.mark.parametrize("algorithm", ["rsa", "p256"])
def test_the_older_form_of_a_key(algorithm: str) -> None:
    key = key_of(algorithm)
    check_pair(certificate(key), private(key, PrivateFormat.TraditionalOpenSSL))


@pytest.mark.parametrize(("certified", "held"), list(permutations(ALGORITHMS, 2)))
def test_a_key_of_another_algorithm(certified: str, held: str) -> None:
    refuses(certificate(key_of(certified)), private(key_of(held)), MISMATCH)


def test_a_key_of_the_same_algorithm() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    refuses(certificate(key_of("p256")), private(key), MISMATCH)


def test_a_chain_is_judged_by_its_first_certificate() -> None:
    own, other = certificate(key_of("p256")), certificate(key_of("rsa"))
    check_pair(own + other, private(key_of("p256")))
    refuses(other + own, private(key_of("p256")), MISMATCH)


def test_the_pairs_that_other_tests_use() -> None:
    check_pair(*pair())


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_key_behind_a_password(form: PrivateFormat) -> None:
    key = key_of("p256")
    refuses(certificate(key), private(key, form, BestAvailableEncryption(b"x")), PROTECTED)


GARBAGE = {
    "empty": "",
    "text": "garbage",
    "only a beginning": "-----BEGIN",
    "not ASCII": "ÿ" * 200,
    "not UTF-8": "\ud800",
    "zeros": "\0" * 200,
}
NOT_CERTIFICATES = GARBAGE | {
    "hollow": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "a key": private(key_of("p256")),
}
NOT_KEYS = GARBAGE | {
    "hollow": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "a certificate": certificate(key_of("p256")),
    "cut short": private(key_of("p256"))[:100],
}


@pytest.mark.parametrize("text", [*NOT_CERTIFICATES.values()], ids=[*NOT_CERTIFICATES])
def test_not_a_certificate(text: str) -> None:
    refuses(text, private(key_of("p256")), NOT_A_CERTIFICATE)
    for member in ("client.ca", "tls.ca_certs"):
        with pytest.raises(ValueError, match=f"^{member} is not PEM that can be read$"):
            check_authorities(text, member)
    with pytest.raises(ValueError, match=f"^{NOT_A_CERTIFICATE}$"):
        check_certificate(text)
    with pytest.raises(ValueError, match=r"^the certificate's validity cannot be read$"):
        validity(text)


@pytest.mark.parametrize("text", [*NOT_KEYS.values()], ids=[*NOT_KEYS])
def test_not_a_key(text: str) -> None:
    refuses(certificate(key_of("p256")), text, NOT_A_KEY)
    with pytest.raises(ValueError, match=f"^{NOT_A_KEY}$"):
        check_key(text)


def test_a_damaged_certificate_inside_a_chain() -> None:
    chain = certificate(key_of("p256")) + certificate(key_of("rsa")).replace("M", "N")
    refuses(chain, private(key_of("p256")), NOT_A_CERTIFICATE)


def test_authorities() -> None:
    check_authorities(authority_pem() + authority_pem("other"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_half_of_a_pair(algorithm: str) -> None:
    key = key_of(algorithm)
    assert check_certificate(certificate(key)) == check_key(private(key)) == key.public_key()


def test_validity_is_that_of_the_first_certificate() -> None:
    begins = int(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp())
    chain = certificate(key_of("p256")) + authority_pem()
    assert validity(chain) == (begins, begins + 24 * 60 * 60)
    assert validity(authority_pem() + chain) != validity(chain)
