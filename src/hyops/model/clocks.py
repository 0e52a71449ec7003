"""How far apart the clocks of two hosts may be before what one of them signs is worth nothing to the other.

Nothing is ordered by two clocks: leases and deadlines go by the monotonic clock of one host. But each side judges by
its own time whether a signed record has expired, or is from the future. Standard library only.
"""

from __future__ import annotations

SKEW_MAX_S = 60.0
"""A minute. Far below the 300 s by which an approver's clock may be ahead, so that an approval which the control host
takes is not from the future on the runner; below a certificate's five minutes; and far above what NTP leaves."""
