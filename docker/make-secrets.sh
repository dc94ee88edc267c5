#!/bin/sh
# Write the secrets that compose.yaml names, and a first API key, where they are missing. They stay out of the repository.
# Compose mounts the files of secrets/ with their own rights, and the containers' users differ: the folder keeps others out, not the
# files. The folder keys/ is mounted as a whole, so everybody may read it: it has the hashes of keys only.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets keys
chmod 0700 secrets
chmod 0755 keys

make_random() {
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'
}

# Hex, since the password of Redis may become a part of a URL.
for name in ray_token redis_password grafana_password; do
    if [ ! -s "secrets/$name" ]; then
        make_random > "secrets/$name"
        echo "wrote docker/secrets/$name"
    fi
    chmod 0444 "secrets/$name"
done

if [ ! -s secrets/api_key ]; then
    if [ -s keys/keys.json ]; then
        chmod 0644 keys/keys.json
        echo "docker/keys/keys.json exists, docker/secrets/api_key does not. Write a key with both scopes there:" >&2
        echo "  phi-serve keys create NAME --scope use --scope operate --file docker/keys/keys.json > docker/secrets/api_key" >&2
        echo "  chmod 0444 docker/secrets/api_key" >&2
        exit 1
    fi
    printf 'sk-phi-%s' "$(make_random)" > secrets/api_key
    echo "wrote docker/secrets/api_key, a key for your requests, Prometheus and Open WebUI"
fi
chmod 0444 secrets/api_key

if [ ! -s keys/keys.json ]; then
    key=$(cat secrets/api_key)
    hash=$(printf %s "$key" | sha256sum)
    cat > keys/keys.json.new <<END
{
 "version": 1,
 "keys": [
  {
   "name": "first",
   "sha256": "${hash%% *}",
   "scopes": ["use", "operate"],
   "created": "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  }
 ]
}
END
    mv keys/keys.json.new keys/keys.json
    echo "wrote docker/keys/keys.json, which \`phi-serve keys --file docker/keys/keys.json\` changes"
fi
chmod 0644 keys/keys.json
