#!/bin/sh
# Starts coturn with the secret of TURN_SECRET, which shows in no process list.
set -eu
[ "${#TURN_SECRET}" -ge 16 ] || { echo "TURN_SECRET: must have at least 16 characters (see .env.example)" >&2; exit 64; }
umask 077
cat /etc/coturn/turnserver.conf >/tmp/turnserver.conf
printf 'static-auth-secret=%s\nrealm=%s\n' "$TURN_SECRET" "$TURN_REALM" >>/tmp/turnserver.conf
exec turnserver -c /tmp/turnserver.conf
