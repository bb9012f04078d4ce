#!/usr/bin/env bash
# Prometheus' Pushgateway divides an address into labels after its escapes are undone.
#
# Version: prometheus-pushgateway 1.5.1-2+b5 (Debian 12, amd64). Needs Debian's apt-get and dpkg-deb, curl,
# and `apt-get update` done once; nothing is installed.
#
# Behaviour: a push to /metrics/job/night%2Fshard%2F7 is taken with 200 and becomes the group
# {job="night", shard="7"}: the escaped slashes divide like real ones and make a label that nobody sent. A
# push to /metrics/job/night/run/a%2Fb is refused with 400, since the number of parts is odd. Values with a
# slash must be sent in base64, as the label run@base64.
#
# Expected: RFC 3986 (2.2, 2.4) says that an address is divided before escapes are undone, and that %2F is
# data. A label value escaped by any library for addresses then arrives as it is. The README of the
# Pushgateway does name the exception ("the plain (or even URI-encoded) /"), but where it is missed the answer
# is not always an error.
#
# Why it matters: names of runs and files hold slashes. With an odd number of them pushes fail; with an even
# number they succeed, and metrics lie in a group whose labels are wrong and which no later DELETE finds.
#
# Seen:
#   job/night%2Fshard%2F7: 200
#   job/night/run/a%2Fb: 400
#   job/night/run@base64/YS9i: 200
#   made{instance="",job="night",run="a/b"} 1
#   made{instance="",job="night",shard="7"} 1

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# As root, apt-get downloads as a user of its own, who must be able to write here.
chmod a+rx "$WORK"
mkdir -m 777 packages
(cd packages && apt-get download -qq prometheus-pushgateway=1.5.1-2+b5)
dpkg-deb -x packages/*.deb unpacked

PORT="$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
GATEWAY="http://127.0.0.1:$PORT"
unpacked/usr/bin/prometheus-pushgateway --web.listen-address="127.0.0.1:$PORT" 2>log &
SERVER=$!
trap 'kill "$SERVER"; wait "$SERVER" || true; rm -rf "$WORK"' EXIT
curl --silent --fail --noproxy '*' --output /dev/null --retry 50 --retry-delay 1 --retry-connrefused \
  "$GATEWAY/-/ready"

push() {
  printf '%s: ' "$1"
  echo 'made 1' | curl --silent --noproxy '*' --output /dev/null --write-out '%{http_code}\n' \
    --data-binary @- "$GATEWAY/metrics/$1"
}

{
  push job/night%2Fshard%2F7
  push job/night/run/a%2Fb
  push job/night/run@base64/YS9i
  curl --silent --noproxy '*' "$GATEWAY/metrics" | grep '^made' | LC_ALL=C sort
} | expect 'job/night%2Fshard%2F7: 200
job/night/run/a%2Fb: 400
job/night/run@base64/YS9i: 200
made{instance="",job="night",run="a/b"} 1
made{instance="",job="night",shard="7"} 1'
