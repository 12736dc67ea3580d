#!/bin/sh
# Starts coturn with the secrets that it shares with duet, one a line of /turn/secret; they show in no process list. More arguments
# are coturn's own.
#   sh start.sh secrets     where it runs: it takes those that have come into the file since, without a restart
set -eu
umask 077
secrets=${TURN_SECRET_FILE:-/turn/secret} work=${TURN_WORK:-/tmp}
[ -s "$secrets" ] || { echo "$secrets: no secret there (see deploy/README.md)" >&2; exit 64; }
each() { # each COMMAND…: with each secret, the last of which may have no end of line
  while IFS= read -r secret || [ -n "$secret" ]; do
    [ -z "$secret" ] || "$@" "$secret"
  done <"$secrets"
}
# In turn's own database, beside those that it began with. For a moment it shows in the process list.
take() { turnadmin -b "$work/turndb" -r "$TURN_REALM" -s "$1" >/dev/null; }
if [ "${1:-}" = secrets ]; then
  each take
  exit
fi
cat "${TURN_CONFIG:-/etc/coturn/turnserver.conf}" >"$work/turnserver.conf"
{
  printf 'realm=%s\nuserdb=%s/turndb\npidfile=%s/turnserver.pid\n' "$TURN_REALM" "$work" "$work"
  each printf 'static-auth-secret=%s\n'
  [ -z "${TURN_EXTERNAL_IP:-}" ] || printf 'external-ip=%s\n' "$TURN_EXTERNAL_IP"
  for peer in ${TURN_PEERS:-}; do printf 'allowed-peer-ip=%s\n' "$peer"; done
} >>"$work/turnserver.conf"
exec turnserver -c "$work/turnserver.conf" "$@"
