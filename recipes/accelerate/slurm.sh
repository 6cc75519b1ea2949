#!/bin/bash
# One run on all nodes of a Slurm job: one launcher per node, one process per GPU.
#   sbatch --nodes 2 recipes/accelerate/slurm.sh --config recipes/alpaca/sft_lora.yaml --output_dir /shared/run
# What follows the script's name goes to the recipe. Submit from this project's folder, which all nodes must see, with
# the environment active. A job that reached its time limit is submitted again as it was, and goes on.
#SBATCH --job-name=sft
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
set -euo pipefail

export recipe=${RECIPE:-recipes/sft.py}
export config=${ACCELERATE_CONFIG:-recipes/accelerate/multi_node.yaml}
gpus=${SLURM_GPUS_ON_NODE:?"no GPU in this job: submit it with sbatch, and keep --gpus-per-node"}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export first=${nodes[0]} machines=${#nodes[@]} processes=$((${#nodes[@]} * gpus))
export port=$((10000 + SLURM_JOB_ID % 20000))  # two jobs on one node don't meet

# SIGTERM comes 300 s before the time limit and is answered by a checkpoint; a launcher's default is to kill after 30 s.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take it over from sbatch

# A node's rank is known on the node alone, so $SLURM_NODEID is filled in there. If one launcher fails, all are ended.
# shellcheck disable=SC2016
srun --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c '
    exec accelerate launch --config_file "$config" --num_machines "$machines" --num_processes "$processes" \
        --machine_rank "$SLURM_NODEID" --main_process_ip "$first" --main_process_port "$port" "$recipe" "$@"
' launcher "$@" --resume_from_checkpoint true
