#!/bin/sh
# Makes passwords once: each deployment has its own, and none stands in a file of the repository.
set -eu
umask 022
make() {
  [ -s "$1" ] && return
  head -c 24 /dev/urandom | base64 | tr -d '/+=\n' >"$1.new"
  mv "$1.new" "$1"
}
make /secrets/redis/redis-password
make /secrets/grafana/password
