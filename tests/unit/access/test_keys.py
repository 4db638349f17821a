"""The file of keys: what is made is read, what is wrong is told by its line, and nothing of it is quoted."""

import hashlib

import pytest

from server.access.keys import PREFIX, KeysError, hash_key, make_key, parse_keys, write_row

HASH = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32


def test_a_new_key_is_long_random_and_recognisable():
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith(PREFIX) and len(key) == len(PREFIX) + 43 for key in keys)


def test_what_is_written_is_read():
    key = make_key()
    (row,) = parse_keys(write_row("shop", key, 12.5))
    assert (row.name, row.megapixels_per_minute) == ("shop", 12.5)
    assert row.digest == hash_key(key.encode()) == hashlib.sha256(key.encode()).digest()
    assert key not in write_row("shop", key)


def test_a_file_has_comments_limits_and_several_keys_of_one_name():
    rows = parse_keys(f"# keys\n\nshop {HASH} 500  # old\n\tshop  {OTHER}  500\r\nlab {'sha256:' + 'EF' * 32}\n")
    assert [(row.name, row.megapixels_per_minute) for row in rows] == [("shop", 500), ("shop", 500), ("lab", None)]
    assert rows[2].digest == bytes.fromhex("ef" * 32)


SECRET = make_key()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one line"),
        ("# nothing\n", "at least one line"),
        (f"\nshop {SECRET}", "line 2: expected the hash of a key, found a key itself"),
        (SECRET, "line 1: expected the hash of a key"),
        (f"{SECRET} {HASH}", "line 1: expected the hash of a key"),
        ("shop hunter2hunter2", "line 1: expected NAME sha256"),
        ("shop sha256:abcd", "line 1: expected NAME sha256"),
        (f"shop {HASH} 5 6", "line 1: expected NAME sha256"),
        (f"-shop {HASH}", "line 1: expected NAME sha256"),
        (f"{'x' * 65} {HASH}", "line 1: expected NAME sha256"),
        (f"shop {HASH} many", "line 1: expected a positive number"),
        (f"shop {HASH} 0", "line 1: expected a positive number"),
        (f"shop {HASH} inf", "line 1: expected a positive number"),
        (f"shop {HASH} nan", "line 1: expected a positive number"),
        (f"shop {HASH}\nlab {HASH}", "line 2: expected every key once"),
        (f"shop {HASH} 5\nshop {OTHER} 6", "line 2: expected the same limit"),
        (f"shop {HASH} 5\nshop {OTHER}", "line 2: expected the same limit"),
    ],
)
def test_what_is_wrong_is_told_without_quoting_it(text, message):
    with pytest.raises(KeysError, match=message) as caught:
        parse_keys(text)
    assert not [word for word in text.split() if len(word) > 5 and word in str(caught.value)]


@pytest.mark.parametrize(("name", "limit"), [("a b", None), ("a#b", None), ("", None), (PREFIX + "x", None), ("a", 0)])
def test_a_line_that_could_not_be_read_is_not_written(name, limit):
    with pytest.raises(KeysError):
        write_row(name, make_key(), limit)


def test_a_row_does_not_show_its_hash():
    (row,) = parse_keys(f"shop {HASH}")
    assert "ab" * 4 not in repr(row)
    assert repr(row.digest)[:8] not in repr(row)
