"""Multipart bodies, read as they arrive: the image is kept once, and nothing beyond the limits is kept at all."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.api.rest.limits import check_size
from server.errors import EmptyBodyError, MalformedRequestError

IMAGE_FIELDS = ("image", "file", "image_file")
"""Names under which the image may be sent."""

URL_FIELD = "image_url"
"""Name under which, instead, the place of the image may be sent."""

_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 4096


class MultipartReader:
    """Collects the image and the text fields of one multipart/form-data body."""

    def __init__(self, boundary: bytes, max_image_bytes: int) -> None:
        """Begin a body.

        Args:
            boundary: As the Content-Type header has it.
            max_image_bytes: Of the image part.

        Raises:
            MalformedRequestError: The boundary is impossible.
        """
        self.fields: list[tuple[str, str]] = []
        self._max_image_bytes = max_image_bytes
        self._image: bytearray | None = None
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_value = b""
        self._name = ""
        self._text: bytearray | None = None
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise MalformedRequestError(f"multipart body: {error}") from error

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            MalformedRequestError: They are no multipart, or name parts that are not known.
            BodyTooLargeError: The image has more bytes than the limit.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedRequestError(f"the multipart body cannot be read: {error}") from error

    def finish(self) -> bytes | None:
        """The image, once the body is complete; None if a field says where it is.

        Raises:
            MalformedRequestError: The body ends before its last boundary, or has neither.
            EmptyBodyError: The image has no bytes.
        """
        if not self._ended:
            raise MalformedRequestError("expected a complete multipart body, found one that ends before its boundary")
        if self._image is None:
            if any(name == URL_FIELD for name, _ in self.fields):
                return None
            found = ", ".join(name for name, _ in self.fields) or "none"
            raise MalformedRequestError(f"expected a field {' or '.join(IMAGE_FIELDS)}, found the fields: {found}")
        if not self._image:
            raise EmptyBodyError("expected an image, found a multipart field of 0 bytes")
        image, self._image = bytes(self._image), None
        return image

    def _begin_part(self) -> None:
        self._headers = {}

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        disposition, parameters = parse_options_header(self._headers.get(b"content-disposition"))
        name = parameters.get(b"name")
        if disposition != b"form-data" or name is None:
            raise MalformedRequestError("expected a name in the Content-Disposition of every multipart field")
        self._name = name.decode("utf-8", "replace")
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
            raise MalformedRequestError(f"{self._name}: expected bytes as they are, found a Content-Transfer-Encoding")
        if self._name in IMAGE_FIELDS:
            if self._image is not None:
                raise MalformedRequestError(f"expected one image, found a second one in the field {self._name}")
            self._image, self._text = bytearray(), None
            return
        if b"filename" in parameters:
            raise MalformedRequestError(f"expected a file only as {', '.join(IMAGE_FIELDS)}, found {self._name[:60]!r}")
        if len(self.fields) == _MAX_FIELDS:
            raise MalformedRequestError(f"expected at most {_MAX_FIELDS} fields, found more")
        self._text = bytearray()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._text is not None:
            self._text += data[start:end]
            if len(self._text) > _MAX_FIELD_BYTES:
                raise MalformedRequestError(f"{self._name[:60]}: expected at most {_MAX_FIELD_BYTES} bytes, found more")
        elif self._image is not None:
            self._image += memoryview(data)[start:end]
            check_size(len(self._image), self._max_image_bytes)

    def _end_part(self) -> None:
        if self._text is None:
            return
        try:
            self.fields.append((self._name, self._text.decode()))
        except UnicodeDecodeError as error:
            raise MalformedRequestError(f"{self._name[:60]}: expected text in UTF-8, found other bytes") from error
        self._text = None

    def _end(self) -> None:
        self._ended = True
