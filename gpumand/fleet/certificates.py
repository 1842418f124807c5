"""The fleet's own certificate authority (CA), and the certificates of its hosts.

A host's certificate has no common name (CN), because etcd's JSON gateway refuses clients with one
(https://github.com/etcd-io/etcd/pull/10366). The host is identified by the first DNS name of the certificate.

The library ``cryptography`` is imported when a function needs it: only ``gpumanctl fleet`` creates certificates.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

HOST_DAYS = 365
CA_DAYS = 3650
CLOCK_DIFFERENCE = timedelta(minutes=10)
"""By how much the clock of another host may be behind without refusing a certificate that was just created."""

MEMBER_PREFIX = "etcd-member."
"""First part of the first DNS name of a member of etcd. Names of hosts have no dot, so it is never one of them."""

RENEW_DAYS = 30
"""How long before its end a certificate is reported as one to renew."""


class BadCertificate(Exception):
    """A certificate or a key that cannot be used; the message is one line that says why."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both as PEM."""

    certificate: bytes
    key: bytes


def is_available() -> bool:
    """Whether the library ``cryptography`` is installed."""
    try:
        import cryptography  # noqa: F401 - only its presence matters
    except ImportError:
        return False
    return True


def create_ca(fleet: str, now: datetime | None = None) -> KeyPair:
    """Create a certificate authority for one fleet.

    Args:
        fleet: name of the fleet, for people.
        now: the time; None = the current time.
    """
    from cryptography import x509

    key = _new_key()
    name = _name(fleet, f"gpumand fleet {fleet} CA")
    builder = _builder(name, name, key, CA_DAYS, now)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return _pair(builder, key, key)


def create_host(ca: KeyPair, fleet: str, names: Sequence[str], now: datetime | None = None) -> KeyPair:
    """Create the certificate of a host, with which it is a server and a client of the other hosts and of etcd.

    Args:
        ca: the certificate authority of the fleet.
        fleet: name of the fleet, which becomes the organization (O).
        names: host names and IP addresses; the first one is the name of the host in the fleet.
        now: the time; None = the current time.

    Raises:
        BadCertificate: the certificate authority cannot be used.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer, issuer_key, key = _certificate(ca.certificate), _private_key(ca.key), _new_key()
    builder = _builder(_name(fleet), issuer.subject, key, HOST_DAYS, now)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(purposes, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(one) for one in names]), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(authority, critical=False)
    return _pair(builder, key, issuer_key)


def member_name(fleet: str) -> str:
    """The first DNS name of the members of etcd of a fleet: by it they recognize each other, and agents refuse them."""
    return f"{MEMBER_PREFIX}{fleet}"


def create_member(ca: KeyPair, fleet: str, names: Sequence[str], now: datetime | None = None) -> KeyPair:
    """Create the certificate of a member of etcd; arguments and exceptions are those of ``create_host``.

    It gives no rights at agents, and the certificate of a host is not accepted as that of a member.
    """
    return create_host(ca, fleet, (member_name(fleet), *names), now)


@dataclass(frozen=True, slots=True)
class HostCertificate:
    """What the certificate of a host says.

    Attributes:
        names: its DNS names and IP addresses, in order.
        common_name: its common name; "" = none, as it must be.
        ends: when it expires.
    """

    names: tuple[str, ...]
    common_name: str
    ends: datetime

    def days_left(self, now: datetime | None = None) -> int:
        """Whole days until it expires; negative after that."""
        return (self.ends - (now or datetime.now(UTC))).days


def read_host(certificate: bytes) -> HostCertificate:
    """Read the certificate of a host from PEM. Raises BadCertificate."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    read = _certificate(certificate)
    try:
        alternatives = list(read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):
        alternatives = []
    names = tuple(str(one.value) for one in alternatives)
    common = read.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return HostCertificate(names, str(common[0].value) if common else "", _end(read))


def check_host(pair: KeyPair, ca: bytes, host: str, now: datetime | None = None) -> HostCertificate:
    """Check that a certificate is that of a host, with its key and from the given authority.

    Args:
        pair: certificate and key of the host.
        ca: certificate of the authority.
        host: name of the host in the fleet.
        now: the time; None = the current time.

    Raises:
        BadCertificate: it cannot be used; the message says why.
    """
    found = read_host(pair.certificate)
    if found.common_name:
        raise BadCertificate(f"the certificate has the common name {found.common_name!r}: etcd refuses such clients")
    if found.names[:1] != (host,):
        raise BadCertificate(f"the certificate is for {', '.join(found.names) or 'no host'}, not for {host}")
    if found.days_left(now) < 0:
        raise BadCertificate(f"the certificate expired on {found.ends:%Y-%m-%d}")
    _check_signature(_certificate(pair.certificate), _certificate(ca))
    if _private_key(pair.key).public_key().public_numbers() != _public_numbers(_certificate(pair.certificate)):
        raise BadCertificate("the private key does not belong to the certificate")
    return found


def _check_signature(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    key, algorithm = issuer.public_key(), certificate.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm is None:
        raise BadCertificate("the certificate authority has a key of another type than ECDSA")
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise BadCertificate("the certificate is from another certificate authority") from None


def _public_numbers(certificate: x509.Certificate) -> Any:
    return getattr(certificate.public_key(), "public_numbers", lambda: None)()


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _name(fleet: str, common_name: str = "") -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"gpumand fleet {fleet}"[:64])]
    parts += [x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])] if common_name else []
    return x509.Name(parts)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int, now: datetime | None
) -> x509.CertificateBuilder:
    from cryptography import x509

    start = (now or datetime.now(UTC)) - CLOCK_DIFFERENCE
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pair(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey, signer: EllipticCurvePrivateKey) -> KeyPair:
    from cryptography.hazmat.primitives import hashes, serialization

    certificate = builder.sign(signer, hashes.SHA256())
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _certificate(pem: bytes) -> x509.Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise BadCertificate("it is not a certificate in PEM form") from None


def _private_key(pem: bytes) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise BadCertificate("it is not a private key in PEM form without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadCertificate("the private key is of another type than ECDSA")
    return key


def _end(certificate: x509.Certificate) -> datetime:
    # cryptography 42 replaced not_valid_after, which has no time zone; Debian 12 has version 38.
    end = getattr(certificate, "not_valid_after_utc", None)
    return end if end is not None else certificate.not_valid_after.replace(tzinfo=UTC)
