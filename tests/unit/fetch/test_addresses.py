"""Which addresses are public: a table, and Python's own opinion."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.fetch.addresses import AddressPolicy, is_public

# First and last of each range, and its neighbours where they are public.
PUBLIC = """
    1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15
    168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0
    192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0
    203.0.112.255 203.0.114.0 223.255.255.255 8.8.8.8 93.184.215.14 2001:200:: 2001:db7:ffff:ffff:: 2001:db9::
    2001:4860:4860::8888 2003:: 2606:4700:4700::1111 2a00:1450::1 3ffe::1
"""

NOT_PUBLIC = {
    "this network": "0.0.0.0 0.0.0.1 0.255.255.255",
    "private": "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255",
    "carrier": "100.64.0.0 100.100.100.200 100.127.255.255",
    "loopback": "127.0.0.0 127.0.0.1 127.255.255.255 ::1",
    "link-local": "169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255 fe80::1 febf:ffff::1 fe80::1%2",
    "cloud": "168.63.129.16 192.0.0.192 fd00:ec2::254 fd20:ce::254",
    "protocols": "192.0.0.0 192.0.0.255 2001:: 2001:1ff:ffff::1 2001:10::1 2001:20::1",
    "documentation": "192.0.2.0 192.0.2.255 198.51.100.0 198.51.100.255 203.0.113.0 203.0.113.255 2001:db8::1 3fff::1 "
    "3fff:fff::1",
    "6to4": "192.88.99.0 192.88.99.255 2002:: 2002:7f00:1::1 2002:0808:0808::1 2002:ffff:ffff::1",
    "benchmarking": "198.18.0.0 198.19.255.255 2001:2::1",
    "multicast": "224.0.0.0 224.0.0.1 239.255.255.255 ff00::1 ff02::1 ffff::1",
    "reserved": "240.0.0.0 255.255.255.254 255.255.255.255 4000::1 8000::1 c000::1 5f00::1 100::1 ::2:3",
    "unspecified": "::",
    "mapped": "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::ffff:0:7f00:1",
    "compatible": "::127.0.0.1 ::8.8.8.8",
    "nat64": "64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 64:ff9b:1:ffff::a00:1",
    "teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2 2001::1",
    "unique local": "fc00::1 fd00::1 fdff:ffff::1",
    "site-local": "fec0::1 feff::1",
}


@pytest.mark.parametrize("text", PUBLIC.split())
def test_public(text: str):
    assert is_public(ip_address(text))


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, many in NOT_PUBLIC.items() for text in many.split()])
def test_not_public(kind: str, text: str):
    assert not is_public(ip_address(text)), kind


@given(st.ip_addresses())
@example(ip_address("168.63.129.16"))
def test_nothing_is_public_that_python_knows_not_to_be(address: IPv4Address | IPv6Address):
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


def test_an_operator_may_allow_and_deny():
    policy = AddressPolicy(
        allow=(ip_network("127.0.0.0/8"), ip_network("fd00:1::/32")),
        deny=(ip_network("127.0.0.9/32"), ip_network("8.8.0.0/16")),
    )
    verdicts = {
        "127.0.0.1": True,
        "127.0.0.9": False,
        "8.8.8.8": False,
        "8.9.0.0": True,
        "10.0.0.1": False,
        "fd00:1::1": True,
        "fd00:2::1": False,
        "::ffff:127.0.0.1": False,  # another address, though the same machine answers
    }
    assert {text: policy.permits(ip_address(text)) for text in verdicts} == verdicts
