#!/bin/sh
# Makes passwords once: each deployment has its own, and none stands in a file of the repository. With ROTATE=turn, it puts a new
# secret of the TURN server in front of the one in use; with ROTATE=turn-done, it drops all but the first.
set -eu
umask 022
root=${SECRETS:-/secrets}
made_up() { head -c 24 /dev/urandom | base64 | tr -d '/+=\n'; }
make() {
  [ -s "$root/$1" ] && return
  made_up >"$root/$1.new"
  mv "$root/$1.new" "$root/$1"
}
make redis/redis-password
make grafana/password
make turn/secret
case ${ROTATE:-} in
  '') ;;
  turn)
    { made_up; echo; head -n 1 "$root/turn/secret"; } >"$root/turn/secret.new"
    mv "$root/turn/secret.new" "$root/turn/secret"
    ;;
  turn-done)
    head -n 1 "$root/turn/secret" >"$root/turn/secret.new"
    mv "$root/turn/secret.new" "$root/turn/secret"
    ;;
  *) echo "ROTATE: must be turn or turn-done" >&2; exit 64 ;;
esac
