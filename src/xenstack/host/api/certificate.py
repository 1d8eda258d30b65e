"""The daemon's TLS certificate: made at first start, self-signed, for the machine's name and the listeners' addresses.

Clients that check it take `tls.crt` as their authority; replace `tls.crt` and `tls.key` to use one of your own.
"""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from xenstack.host.api.sessions import write_secret

_VALID_DAYS = 3650


def context(folder: Path, name: str, addresses: list[str]) -> ssl.SSLContext:
    """The server's side of TLS, with the certificate in `folder` (made when it is missing).

    Errors: OSError, ssl.SSLError.
    """
    certificate, key = folder / "tls.crt", folder / "tls.key"
    if not (certificate.exists() and key.exists()):
        _make(certificate, key, name, addresses)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_cert_chain(certificate, key)
    return made


def _make(certificate: Path, key: Path, name: str, addresses: list[str]) -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    names: list[x509.GeneralName] = [x509.DNSName(name), x509.DNSName("localhost")]
    names += [x509.IPAddress(ipaddress.ip_address(each)) for each in dict.fromkeys([*addresses, "127.0.0.1"])]
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(secret, hashes.SHA256())
    )
    private = secret.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_secret(key, private.decode())
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
