"""TLS for both ports, from one set of files that may change while the server runs."""

import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

_log = logging.getLogger(__name__)


class CertificatesError(ValueError):
    """The files cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files.

    Attributes:
        certificate: The server's own, followed by its intermediate ones.
        key: Its private key, without a password.
        client_ca: Who signs the certificates of clients; None where none are asked for.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One state of the files, proven to belong together."""

    contents: tuple[bytes, ...] = field(repr=False)
    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration


class Certificates:
    """What both servers show their clients: what the files held when they were last whole.

    A connection keeps what it began with. TLS 1.2 is the least: set here for HTTP, gRPC's own default.
    """

    def __init__(self, files: CertificateFiles) -> None:
        """Read the files.

        Raises:
            CertificatesError: They cannot be read, or do not belong together.
        """
        self._files = files
        self._current: _Loaded | None = None
        self._problem = ""
        found = self.read()
        if isinstance(found, str):
            raise CertificatesError(found)
        self._current = found

    @property
    def asks_clients(self) -> bool:
        """Whether clients need certificates."""
        return self._files.client_ca is not None

    def read(self) -> _Loaded | str:
        """What the files hold now, or why they cannot be used. Blocks: not for the event loop."""
        try:
            contents = self._read_contents()
            if self._current is not None and contents == self._current.contents:
                return self._current
            context = self._make_context()
            if self._read_contents() != contents:
                return "the certificate or its key changed while it was read"
        except (OSError, ssl.SSLError) as error:  # an SSLError is an OSError; named for what it says
            return f"expected a certificate and its key in {self._names()}, found: {error.strerror or error}"
        except UnicodeDecodeError:
            return f"expected PEM files, found other bytes in one of {self._names()}"
        certificate, key, *client_ca = contents
        root = client_ca[0] if client_ca else None
        return _Loaded(contents, context, grpc.ssl_server_certificate_configuration([(key, certificate)], root))

    def take(self, found: _Loaded | str) -> None:
        """Use what `read` gave, if it is new. If it is broken, the log says so once, and the old ones stay."""
        problem, self._problem = self._problem, found if isinstance(found, str) else ""
        if isinstance(found, str):
            if found != problem:
                _log.error("the TLS certificate stays as it was: %s", found)
        elif found is not self._current:
            self._current = found
            _log.info("TLS certificate read anew")

    def http_context(self) -> ssl.SSLContext:
        """For the HTTP server; every handshake takes the certificates of its moment."""

        def switch(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = self._loaded.context

        context = self._make_context()
        context.sni_callback = switch  # called without a server name, too
        return context

    def rpc_credentials(self) -> grpc.ServerCredentials:
        """For the gRPC server; every handshake takes the certificates of its moment."""
        return grpc.dynamic_ssl_server_credentials(
            self._loaded.configuration, lambda: self._loaded.configuration, self.asks_clients
        )

    @property
    def _loaded(self) -> _Loaded:
        if self._current is None:
            raise RuntimeError("This is a bug: certificates are used before they were read")
        return self._current

    def _read_contents(self) -> tuple[bytes, ...]:
        files = self._files
        paths = (files.certificate, files.key, *([files.client_ca] if files.client_ca is not None else []))
        return tuple(path.read_bytes() for path in paths)

    def _make_context(self) -> ssl.SSLContext:
        files = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(files.certificate, files.key, password="")
        if files.client_ca is not None:
            # Optional in the handshake, for orchestrators' probes have none; all else is refused without one.
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(files.client_ca)
        return context

    def _names(self) -> str:
        files = self._files
        return ", ".join(str(path) for path in (files.certificate, files.key, files.client_ca) if path is not None)
