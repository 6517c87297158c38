#!/usr/bin/env bash
# Removes the platform. The APIServices go first: an APIService whose backend is
# gone blocks every namespace deletion of the cluster.
#   deploy/uninstall.sh [overlay]
set -euo pipefail
overlay=${1:-kind}
cd "$(dirname "$0")"
kubectl=${KUBECTL:-kubectl}
"$kubectl" delete apiservice v1.custom.example.com v1alpha1.custom.example.com --ignore-not-found --wait
"$kubectl" delete -k "overlays/$overlay" --ignore-not-found --wait
