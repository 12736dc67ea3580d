#!/bin/sh
# Starts Redis with the password of /secrets/redis-password, which shows in no process list.
set -eu
umask 077
cat /redis.conf >/run/redis/redis.conf
printf 'requirepass %s\n' "$(cat /secrets/redis-password)" >>/run/redis/redis.conf
exec redis-server /run/redis/redis.conf --dir /run/redis
