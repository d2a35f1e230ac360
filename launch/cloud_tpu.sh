#!/usr/bin/env bash
# Trains on a slice of Cloud TPU. From the repository, with gcloud set to a project and a zone:
#   export TPU_NAME=digits TPU_TYPE=v5litepod-16 TPU_VERSION=v2-alpha-tpuv5-lite
#   launch/cloud_tpu.sh create [--spot ...]    asks for the slice; what follows goes to gcloud
#   launch/cloud_tpu.sh state                  ACTIVE when it is there
#   launch/cloud_tpu.sh install                copies the last commit to all hosts, and installs what it needs
#   launch/cloud_tpu.sh start --config configs/digits.py --workdir gs://BUCKET/digits
#   launch/cloud_tpu.sh log                    what the first process prints
#   launch/cloud_tpu.sh stop                   saves, and ends when it has
#   launch/cloud_tpu.sh delete                 gives the slice back
# docs/launching.md says more.
set -euo pipefail

on_host() { gcloud compute tpus tpu-vm ssh "$TPU_NAME" --worker="$1" --command="$2"; }

create() {
  gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" \
    --accelerator-type="$TPU_TYPE" --runtime-version="$TPU_VERSION" "$@"
}

state() { gcloud compute tpus queued-resources describe "$TPU_NAME" --format="value(state.state)"; }

# The hosts' Python may be older than 3.11, so uv brings one.
install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git archive --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:jax_ddpm.tar.gz" --worker=all
  rm "$archive"
  on_host all 'set -e; mkdir -p jax_ddpm; tar -xzf jax_ddpm.tar.gz -C jax_ddpm; cd jax_ddpm
    python3 -m pip install --quiet --user uv; python3 -m uv venv --quiet --clear --python 3.11
    python3 -m uv pip install --quiet --requirement requirements.txt "jax[tpu]" gcsfs --constraint requirements.lock'
}

# systemd-run looks for a program from the home on, whatever --working-directory says.
# As a unit of systemd it outlives the connection, and hears SIGTERM when the host is shut down, while there still is a network.
start() {
  local flags
  printf -v flags '%q ' "$@"
  on_host all "sudo systemd-run --unit=jax_ddpm --collect --uid=\$USER --working-directory=\$HOME/jax_ddpm \
    --setenv=PYTHONUNBUFFERED=1 --property=TimeoutStopSec=300 --property=After=network-online.target \
    \$HOME/jax_ddpm/.venv/bin/python run.py $flags"
}

log() { on_host 0 'sudo journalctl --unit=jax_ddpm --output=cat --lines=100 --follow'; }

# Told to one process, it is told to all.
stop() { on_host 0 'sudo systemctl stop jax_ddpm'; }

delete() { gcloud compute tpus queued-resources delete "$TPU_NAME" --force --quiet; }

case "${1-}" in
  create | state | install | start | log | stop | delete) "$@" ;;
  *) grep '^#   ' "$0" >&2 && exit 2 ;;
esac
