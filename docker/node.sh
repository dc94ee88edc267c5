#!/bin/sh
# What a container of the cluster does: head | worker | deploy | any other command. Settings come from the environment.
#   RAY_HEAD_HOST      name of the head on the cluster's own network
#   RAY_NODE_CPUS      cores that Ray may give to replicas here; 0 on the head
#   RAY_NODE_GPUS      likewise
#   RAY_REDIS_ADDRESS  Redis that keeps the head's state, host:port; empty: the head's state dies with it
#   SERVE_CONFIG       file that `deploy` hands to the cluster
# Secrets are files: RAY_AUTH_TOKEN_PATH, and REDIS_PASSWORD_FILE where Redis is used.
set -eu
role=${1:-head}
host=${RAY_HEAD_HOST:-ray-head}
store=${RAY_OBJECT_STORE_BYTES:-268435456}

# A node is told its own address on the cluster's network: the head's container has a second network, for clients.
address_of() {
    python3.11 -c 'import socket, sys; print(socket.gethostbyname(sys.argv[1]))' "$1"
}

# Ray gives up where there is no head yet. The head's agent tells when it is a node that others can join.
await_head() {
    until python3.11 /app/probe.py "http://$host:52365/api/local_raylet_healthz" 2>/dev/null; do
        sleep 5
    done
}

case $role in
    head)
        if [ -z "${RAY_REDIS_ADDRESS:-}" ]; then
            unset RAY_REDIS_ADDRESS
            set --
        else
            # Ray takes it on the command line only; `ps` shows it inside this container and to the host's root.
            set -- --redis-password "$(cat "$REDIS_PASSWORD_FILE")"
            export RAY_external_storage_namespace="${RAY_STORAGE_NAMESPACE:-phi-serve}"
        fi
        exec ray start --head --block --disable-usage-stats --node-ip-address "$(address_of "$host")" --port 6379 \
            --dashboard-host 0.0.0.0 --dashboard-port 8265 --metrics-export-port 8080 \
            --num-cpus "${RAY_NODE_CPUS:-0}" --num-gpus 0 --object-store-memory "$store" "$@"
        ;;
    worker)
        await_head
        exec ray start --block --disable-usage-stats --address "$host:6379" --metrics-export-port 8080 \
            --num-cpus "${RAY_NODE_CPUS:-1}" --num-gpus "${RAY_NODE_GPUS:-0}" --object-store-memory "$store"
        ;;
    deploy)
        # Serve takes a file with mistakes without a complaint, and fails later. They are named here, and nothing is deployed.
        phi-serve validate --elsewhere "$SERVE_CONFIG" || exit 2
        # There may be no worker yet; the configuration is the goal, Serve works towards it.
        tries=60
        until await_head && serve deploy --address "http://$host:8265" "$SERVE_CONFIG"; do
            tries=$((tries - 1))
            [ "$tries" -gt 0 ] || exit 1
            sleep 5
        done
        ;;
    *)
        exec "$@"
        ;;
esac
