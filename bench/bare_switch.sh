#!/bin/bash
# The same effects as a switch by hyops, by a shell script that knows everything beforehand and proves nothing: see the
# primary fail, wait for its lease to end, promote, move DNS. It is the baseline of the bench, not an example to follow.
# Wants: OLD NEW (addresses) ETCD (endpoints) TTL MARGIN (seconds) DNS ZONE NAME KEY_NAME KEY (TSIG)
set -eu
export ETCDCTL_API=3 PGCONNECT_TIMEOUT=1

failures=0
until [ "$failures" -ge 3 ]; do
    if timeout 0.6 bash -c "exec 3<>/dev/tcp/$OLD/5432" 2>/dev/null; then failures=0; else failures=$((failures + 1)); fi
    sleep 0.25
done

etcdctl --endpoints="$ETCD" put /bare/generation 2 >/dev/null
while [ -n "$(etcdctl --endpoints="$ETCD" get --keys-only /bare/holder)" ]; do sleep 0.05; done
sleep "$MARGIN"

ssh -o BatchMode=yes -i /root/.ssh/bare "postgres@$NEW" pg_ctlcluster 15 main promote

nsupdate -y "hmac-sha256:$KEY_NAME:$KEY" <<UPDATE
server $DNS
zone $ZONE
prereq yxrrset _gen.$NAME TXT "1"
update delete _gen.$NAME TXT
update add _gen.$NAME 0 TXT "2"
update delete $NAME A
update add $NAME 30 A $NEW
send
UPDATE
