"""What every SSH connection of hyops is made of: one list for both clients and for runners (RUN-3).

Best first. Curve25519, AES-GCM or ChaCha20-Poly1305, Ed25519 or P-256 or RSA with SHA-2; CAs sign with Ed25519 alone.
"""

from __future__ import annotations

KEX = ("curve25519-sha256", "curve25519-sha256@libssh.org")
CIPHERS = ("aes256-gcm@openssh.com", "aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")  # unused: all our ciphers carry their own
HOST_CERTIFICATES = ("ssh-ed25519-cert-v01@openssh.com",)
PLAIN_HOST_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512")
HOST_KEYS = HOST_CERTIFICATES + PLAIN_HOST_KEYS
USER_KEYS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512")
USER_CERTIFICATES = (
    "ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com",
)
CA_SIGNATURES = ("ssh-ed25519",)
