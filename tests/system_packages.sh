#!/usr/bin/env bash
# Installs the programs that tests need and pip can't bring, where this machine lets us.
# A test whose program is still missing is skipped, and named at the end of the run.
set -euo pipefail

have_compiler() { command -v g++ >/dev/null; }
have_browser() { command -v chromium >/dev/null || command -v google-chrome >/dev/null; }
have_slurm() {
  local PATH=$PATH:/usr/sbin # not on everybody's path
  command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged
} >/dev/null
# Neither package starts a service: mariadb-server-core has none, slurmdbd's wants a config first.
have_accounting() {
  local PATH=$PATH:/usr/sbin
  command -v slurmdbd && command -v mariadbd && command -v my_print_defaults
} >/dev/null
have_namespaces() { command -v ip >/dev/null; }

missing=()
have_compiler || missing+=(g++)
have_browser || missing+=(chromium)
have_slurm || missing+=(slurm-wlm munge)
have_accounting || missing+=(slurmdbd mariadb-server-core mariadb-client-core)
have_namespaces || missing+=(iproute2)
((${#missing[@]})) || exit 0

if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && grep -q debian /etc/os-release; then
  echo "installing ${missing[*]} with apt-get"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    echo "apt-get could not install ${missing[*]}: tests that need them will be skipped"
else
  echo "not installed: ${missing[*]} (needs root on Debian); tests that need them will be skipped"
fi
