"""The format of ansible-vault, 1.1 and 1.2, AES256: read and written without Ansible (SEC-1).

Source: Ansible's documentation, "Protecting sensitive data with Ansible vault", section "Format of files encrypted
with Ansible Vault". Salt of 32 bytes; PBKDF2-HMAC-SHA256, 10000 rounds, gives cipher key, HMAC key and counter;
AES-256-CTR over the padded text; HMAC-SHA256 over the cipher text, checked before anything is decrypted.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

ROUNDS = 10_000  # the format's own number: another one is another format
SALT_BYTES = 32
COLUMNS = 80
HEADERS = ("1.1", "1.2")


class VaultFormatError(Exception):
    """Not an ansible-vault file, or a damaged one."""


class WrongPasswordError(Exception):
    """The text's seal does not fit: another password, or the text was changed."""


def encrypt(text: bytes, password: bytes, *, salt: bytes | None = None) -> bytes:
    """The file's bytes (format 1.1)."""
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    cipher_key, seal_key, counter = _keys(password, salt)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(cipher_key), modes.CTR(counter)).encryptor()
    hidden = encryptor.update(padder.update(text) + padder.finalize()) + encryptor.finalize()
    seal = hmac.digest(seal_key, hidden, "sha256")
    body = binascii.hexlify(b"\n".join(binascii.hexlify(part) for part in (salt, seal, hidden)))
    lines = [body[at : at + COLUMNS] for at in range(0, len(body), COLUMNS)]
    return b"\n".join([b"$ANSIBLE_VAULT;1.1;AES256", *lines, b""])


def decrypt(data: bytes, password: bytes) -> bytes:
    """The text of a file.

    Raises:
        VaultFormatError: it is damaged or not one. WrongPasswordError: the password does not open it.
    """
    first, _, rest = data.partition(b"\n")
    header = first.strip().decode("ascii", "replace").split(";")
    if header[0] != "$ANSIBLE_VAULT" or len(header) < 3:
        raise VaultFormatError("no ansible-vault header")
    if header[1].strip() not in HEADERS or header[2].strip() != "AES256":
        raise VaultFormatError(f"version {header[1].strip()} with {header[2].strip()} is not read here")
    try:
        inner = binascii.unhexlify(b"".join(rest.split()))
        salt, seal, hidden = (binascii.unhexlify(part) for part in inner.split(b"\n", 2))
    except (binascii.Error, ValueError) as exc:
        raise VaultFormatError("its body is cut or damaged") from exc
    cipher_key, seal_key, counter = _keys(password, salt)
    if not hmac.compare_digest(hmac.digest(seal_key, hidden, "sha256"), seal):
        raise WrongPasswordError
    decryptor = Cipher(algorithms.AES(cipher_key), modes.CTR(counter)).decryptor()
    unpadder = PKCS7(128).unpadder()
    try:
        return unpadder.update(decryptor.update(hidden) + decryptor.finalize()) + unpadder.finalize()
    except ValueError as exc:
        raise VaultFormatError("its padding is damaged") from exc


def _keys(password: bytes, salt: bytes) -> tuple[bytes, bytes, bytes]:
    keys = hashlib.pbkdf2_hmac("sha256", password, salt, ROUNDS, 80)
    return keys[:32], keys[32:64], keys[64:]
