"""The model of a form is found before and after a file, wherever the bytes are divided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.gateway.multipart import MAX_HEADERS, MAX_VALUE, BadForm, FormScanner, boundary_of

MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
FILE = b'Content-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav\r\n\r\n%b\r\n'
OTHER = b'Content-Disposition: form-data; name="language"\r\n\r\nen\r\n'


def form(*parts: bytes, boundary: bytes = b"xyz") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part for part in parts) + b"--" + boundary + b"--\r\n"


def scanned(data: bytes, *sizes: int, boundary: bytes = b"xyz") -> FormScanner:
    scanner, position = FormScanner(boundary), 0
    for size in (*sizes, len(data)):
        scanner.feed(data[position : position + size])
        position += size
    return scanner


@given(st.lists(st.integers(1, 60), max_size=20), st.binary(max_size=300), st.booleans())
def test_model_is_found_however_the_bytes_are_divided(sizes: list[int], content: bytes, is_first: bool) -> None:
    file = FILE % content.replace(b"--xyz", b"")
    data = form(MODEL, file) if is_first else form(OTHER, file, MODEL)

    scanner = scanned(data, *sizes)

    assert scanner.model == "whisper-1"
    assert data[slice(*scanner.span)] == b"whisper-1"


@pytest.mark.parametrize(
    "part",
    [
        b"content-disposition: form-data; name=model\r\n\r\nm\r\n",
        b'Content-Type: text/plain\r\nContent-Disposition: form-data ; name="model"\r\n\r\nm\r\n',
        b'CONTENT-DISPOSITION: form-data;NAME="model"\r\n\r\nm\r\n',
    ],
)
def test_spellings_of_the_header(part: bytes) -> None:
    assert scanned(form(part)).model == "m"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        form(),
        form(FILE % b'name="model"\r\n\r\nx', OTHER),
        form(b'Content-Disposition: form-data; name="models"\r\n\r\nx\r\n'),
        form(b'Content-Disposition: form-data; filename="name=model"\r\n\r\nx\r\n'),
        form(b"\r\nno headers\r\n", OTHER),
        form(OTHER) + MODEL,
        form(MODEL)[:-20],
    ],
)
def test_forms_without_a_model(data: bytes) -> None:
    assert scanned(data).model is None


def test_empty_model_and_empty_parts() -> None:
    empty = b'Content-Disposition: form-data; name="a"\r\n\r\n\r\n'
    assert scanned(form(empty, b'Content-Disposition: form-data; name="model"\r\n\r\n\r\n')).model == ""
    assert scanned(form(empty, MODEL)).model == "whisper-1"


def test_memory_is_limited() -> None:
    scanner = FormScanner(b"xyz")
    scanner.feed(b"--xyz\r\n" + FILE % b"")
    for _ in range(100):
        scanner.feed(b"a" * 10_000)
    assert len(scanner._rest) < 100

    with pytest.raises(BadForm, match="longer"):
        scanned(form(b'Content-Disposition: form-data; name="model"\r\n\r\n' + b"m" * 2 * MAX_VALUE))
    with pytest.raises(BadForm, match="headers"):
        scanned(b"--xyz\r\n" + b"A: b\r\n" * MAX_HEADERS)
    with pytest.raises(BadForm, match="UTF-8"):
        scanned(form(b'Content-Disposition: form-data; name="model"\r\n\r\n\xff\r\n'))


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; charset=utf-8; boundary="a b:c"', b"a b:c"),
        ("multipart/form-data; BOUNDARY=----WebKitX", b"----WebKitX"),
    ],
)
def test_boundary_of_a_header(header: str, boundary: bytes) -> None:
    assert boundary_of(header) == boundary


@pytest.mark.parametrize(
    "header", ["multipart/form-data", "multipart/form-data; boundary=", "", "a; boundary=" + "b" * 300]
)
def test_header_without_a_usable_boundary_is_refused(header: str) -> None:
    with pytest.raises(BadForm):
        boundary_of(header)
