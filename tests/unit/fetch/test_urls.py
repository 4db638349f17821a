"""URLs: one spelling each, and nothing that two parsers could read differently."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import UrlNotAllowedError
from server.fetch.urls import MAX_CHARACTERS, RemoteUrl, parse_url

GOOD = {
    "http://example.com": ("http", "example.com", 80, "/"),
    "HTTPS://EXAMPLE.com/A?b=C#d": ("https", "example.com", 443, "/A?b=C"),
    "https://example.com./x": ("https", "example.com", 443, "/x"),
    "https://example.com:8443/x": ("https", "example.com", 8443, "/x"),
    "http://example.com?a=b/c": ("http", "example.com", 80, "/?a=b/c"),
    "http://example.com#@10.0.0.1/": ("http", "example.com", 80, "/"),
    "http://example.com/@10.0.0.1/": ("http", "example.com", 80, "/@10.0.0.1/"),
    "http://my_bucket.s3.example.com/k%2Fy?X-Amz-Signature=0aF%3D&n=1+2": (
        "http",
        "my_bucket.s3.example.com",
        80,
        "/k%2Fy?X-Amz-Signature=0aF%3D&n=1+2",
    ),
    "http://bücher.example/über": ("http", "xn--bcher-kva.example", 80, "/%C3%BCber"),
    "http://例え.テスト/": ("http", "xn--r8jz45g.xn--zckzah", 80, "/"),
    "http://ex。ample.com/": ("http", "ex.ample.com", 80, "/"),
    'http://example.com/a"b<c>{d}|^`': ("http", "example.com", 80, "/a%22b%3Cc%3E%7Bd%7D%7C%5E%60"),
    "http://93.184.215.14/x": ("http", "93.184.215.14", 80, "/x"),
    # The address behind the digits in circles is checked like any other.
    "http://①②⑦.⓪.⓪.①/": ("http", "127.0.0.1", 80, "/"),
    "http://127.0.0.1./": ("http", "127.0.0.1", 80, "/"),
    "http://[2606:4700:4700:0::1111]:8080/": ("http", "2606:4700:4700::1111", 8080, "/"),
    "http://[::FFFF:127.0.0.1]/": ("http", "::ffff:7f00:1", 80, "/"),
}


@pytest.mark.parametrize("text", GOOD)
def test_read(text: str):
    url = parse_url(text)
    assert (url.scheme, url.host, url.port, url.target) == GOOD[text]


BAD = {
    "": "1 to 4096",
    "http://example.com/" + "a" * MAX_CHARACTERS: "1 to 4096",
    "photo.jpg": "absolute",
    "//example.com/": "absolute",
    "http:/example.com": "absolute",
    "http:example.com": "absolute",
    "javascript:alert(1)": "absolute",
    "data:image/png;base64,AAAA": "absolute",
    "file:///etc/passwd": "scheme",
    "ftp://example.com/": "scheme",
    "gopher://example.com/": "scheme",
    "http+unix://x/": "scheme",
    "http://": "host",
    "http:///x": "host",
    "http://?x": "host",
    "http://:80/": "host",
    "http://user@example.com/": "user name",
    "http://user:secret@example.com/": "user name",
    "http://example.com@127.0.0.1/": "user name",
    "http://example.com:80@127.0.0.1/": "user name",
    "http://@example.com/": "user name",
    "http://example.com\\@127.0.0.1/": "backslashes",
    "http:\\\\127.0.0.1/": "backslashes",
    "http://127.0.0.1\\.example.com/": "backslashes",
    " http://example.com/": "spaces",
    "http://example.com/\n": "spaces",
    "http://exa mple.com/": "spaces",
    "http://example.com/a b": "spaces",
    "ht\ttp://example.com/": "spaces",
    "http://example.com/\r\nHost: x": "spaces",
    "http://example.com/\x00": "control",
    "http://example.com/\u2028": "control",
    "http://example.com/\u00a0": "spaces",
    "http://exa\u00admple.com/": "control",
    "http://exa\u200bmple.com/": "control",
    "http://example.com/\ud800": "control",
    "http://example.com:/": "host and a port",
    "http://example.com:0/": "1 to 65535",
    "http://example.com:65536/": "1 to 65535",
    "http://example.com:999999/": "host and a port",
    "http://example.com:-1/": "host and a port",
    "http://example.com:8o/": "host and a port",
    "http://example.com:８０/": "host and a port",
    "http://example.com:80:80/": "host and a port",
    "http://example..com/": "host name",
    "http://.example.com/": "host name",
    "http://example.com../": "host name",
    "http://./": "host name",
    "http://-example.com/": "host name",
    "http://" + "a" * 64 + ".com/": "host name",
    "http://" + "a." * 127 + "com/": "host name",
    "http://%31%32%37.0.0.1/": "host name",
    "http://example.com%00.evil.com/": "host name",
    "http://example.com;evil.com/": "host name",
    "http://$(id).example.com/": "host name",
    "http://\u2488.example/": "IDNA",
    "http://a\u0338\u0338--b＿.＃/": "IDNA",
    # Other spellings of 127.0.0.1, 10.0.0.1 and 0.0.0.0.
    "http://2130706433/": "four decimal",
    "http://017700000001/": "four decimal",
    "http://0x7f000001/": "four decimal",
    "http://0x7f.1/": "four decimal",
    "http://0x7f.0.0.0x1/": "four decimal",
    "http://127.1/": "four decimal",
    "http://127.0.1/": "four decimal",
    "http://0177.0.0.1/": "four decimal",
    "http://127.0.0.01/": "four decimal",
    "http://0/": "four decimal",
    "http://0x/": "four decimal",
    "http://127.0.0.256/": "four decimal",
    "http://1.2.3.4.5/": "four decimal",
    "http://example.0x10/": "four decimal",
    "http://②①③⓪⑦⓪⑥④③③/": "four decimal",
    "http://[127.0.0.1]/": "brackets",
    "http://[::1/": "host",
    "http://::1/": "host",
    "http://[::1]x/": "host",
    "http://[fe80::1%25eth0]/": "host",
    "http://[:::1]/": "brackets",
    "http://[v1.a]/": "host",
    "http://[]/": "host",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text)[:50])
def test_refused_with_what_was_expected(text: str):
    with pytest.raises(UrlNotAllowedError, match=r"^expected .*, found") as caught:
        parse_url(text)
    assert BAD[text] in caught.value.detail


@settings(max_examples=300)
@given(st.text(st.sampled_from("htp:/.@\\#?[]%01x7fa-\u2460。 "), max_size=24).map(lambda text: f"http://{text}"))
def test_whatever_is_read_is_unambiguous(text: str):
    """Read again, by us and by the standard library, what is connected to stays the same."""
    try:
        url = parse_url(text)
    except UrlNotAllowedError:
        return
    written = f"{url.scheme}://{url.authority}{url.target}"
    assert parse_url(written) == url
    other = urlsplit(written)
    assert (other.hostname, other.port or 80, other.username) == (url.host, url.port, None)


JOINED = {
    "/other": "https://example.com:8443/other",
    "other?x=1": "https://example.com:8443/a/other?x=1",
    "?x=1": "https://example.com:8443/a/b?x=1",
    "../up": "https://example.com:8443/up",
    "//other.example/y": "https://other.example/y",
    "https://other.example": "https://other.example/",
    "HTTPS://10.0.0.1/": "https://10.0.0.1/",
    "/ü": "https://example.com:8443/%C3%BC",
}


@pytest.mark.parametrize("location", JOINED)
def test_redirects_are_resolved(location: str):
    assert parse_url("https://example.com:8443/a/b?q").join(location) == parse_url(JOINED[location])


@pytest.mark.parametrize(
    "location",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "//user@example.com/",
        "https:\\\\127.0.0.1",
        "/\\127.0.0.1",
        "/a b",
        "https://[::1",
        "https://2130706433/",
        "",
        "x" * (MAX_CHARACTERS + 1),
    ],
)
def test_redirects_that_lead_astray_are_refused(location: str):
    with pytest.raises(UrlNotAllowedError):
        parse_url("https://example.com/a").join(location)


def test_plain_http_may_become_https():
    assert parse_url("http://example.com/a").join("https://example.com/a").scheme == "https"


@pytest.mark.parametrize(
    "text", ["ftp://a.example/secret", "http://secret@a.example/", "http://a.example\\secret", "secret"]
)
def test_a_refusal_does_not_quote_the_url(text: str):
    with pytest.raises(UrlNotAllowedError) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


def test_a_url_does_not_show_its_secrets():
    url = parse_url("https://example.com/bucket?signature=secret")
    assert "secret" not in repr(url)
    assert "bucket" not in repr(url)


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        (RemoteUrl("http", "example.com", 80, "/"), None, "example.com"),
        (RemoteUrl("https", "example.com", 80, "/"), None, "example.com:80"),
        (RemoteUrl("http", "10.0.0.1", 81, "/"), "10.0.0.1", "10.0.0.1:81"),
        (RemoteUrl("https", "::1", 443, "/"), "::1", "[::1]"),
        (RemoteUrl("http", "a.1x", 80, "/"), None, "a.1x"),
    ],
)
def test_what_a_connection_needs(url: RemoteUrl, address: str | None, authority: str):
    assert (str(url.address) if url.address is not None else None) == address
    assert url.authority == authority
