#!/usr/bin/env bash
# One machine with eight GPUs: a process for each, and one result.
#   examples/cluster/one_node.sh TASK MODEL FOLDER
set -euo pipefail
task=${1:-ioi} model=${2:-mini} folder=${3:-circuits/cluster}
processes=${PROCESSES:-8} device=${DEVICE:-cuda} restarts=${RESTARTS:-3}

torchrun --standalone --nproc-per-node "$processes" --max-restarts "$restarts" \
  -m circuitkit discover "$task" --model "$model" --device "$device" \
  --method exact --threads 1 -o "$folder"
