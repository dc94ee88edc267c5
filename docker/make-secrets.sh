#!/bin/sh
# Write the secrets that compose.yaml names, where they are missing. They stay out of the repository.
# Compose mounts the files with their own rights, and the containers' users differ: the folder keeps others out, not the files.
set -eu
cd "$(dirname "$0")/secrets"
umask 077
chmod 0700 .
for name in ray_token redis_password grafana_password; do
    if [ ! -s "$name" ]; then
        head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$name"
        echo "wrote docker/secrets/$name"
    fi
done
chmod 0444 ray_token redis_password grafana_password
