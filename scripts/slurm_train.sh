#!/bin/bash
# Train on two machines of eight GPUs each, one process a machine:  sbatch scripts/slurm_train.sh [key=value …]
#
# The processes find each other through SLURM (distributed={}). run_dir, and the model's cache, must lie on a file system
# that all machines share. When a process ends by an accident, the others end with code 7 and the job can be put in the
# queue again: it goes on from the newest checkpoint.
#SBATCH --job-name=aflow_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=aflow_jax_%j.log
set -euo pipefail

RUN_DIR=${RUN_DIR:-runs/slurm_$SLURM_JOB_ID}
RESUME=()
if compgen -G "$RUN_DIR/checkpoints/step_*/manifest.json" >/dev/null; then
  RESUME=(--resume latest)
fi

# --kill-on-bad-exit=0: the other processes end by themselves, with their message.
srun --kill-on-bad-exit=0 python -m aflow_jax.train --config configs/multi_gpu.yaml "${RESUME[@]}" \
  run_dir="$RUN_DIR" "distributed={}" "$@"
