#!/usr/bin/env bash
#SBATCH --job-name=circuitkit
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:8
#SBATCH --time=04:00:00
# Several machines that see each other: srun starts a torchrun on each, which starts the processes.
#   sbatch examples/cluster/slurm_nodes.sh ioi mini circuits/nodes
set -euo pipefail
task=${1:-ioi} model=${2:-mini} folder=${3:-circuits/nodes} device=${DEVICE:-cuda}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "${PROCESSES:-8}" --max-restarts 3 \
  --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" \
  -m circuitkit discover "$task" --model "$model" --device "$device" \
  --method exact --threads 1 -o "$folder"
