#!/usr/bin/env bash
#SBATCH --job-name=circuitkit
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
# Jobs that share nothing but a disk: each makes its part of the blocks, in any order.
#   array=$(sbatch --parsable examples/cluster/slurm_array.sh ioi mini circuits/array)
#   sbatch --dependency=afterok:$array --wrap "circuitkit merge circuits/array"
set -euo pipefail
task=${1:-ioi} model=${2:-mini} folder=${3:-circuits/array}
part=${SLURM_ARRAY_TASK_ID:-0} parts=${SLURM_ARRAY_TASK_COUNT:-8} device=${DEVICE:-cuda}

circuitkit discover "$task" --model "$model" --device "$device" \
  --method exact --threads 1 -o "$folder" --shard "$part/$parts"
