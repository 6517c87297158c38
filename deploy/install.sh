#!/usr/bin/env bash
# Installs an overlay into the cluster of the current kubeconfig: makes a CA and
# a serving certificate where there is none yet, applies the manifests, writes
# the CA into both APIServices and waits until they are Available.
#   deploy/install.sh [overlay]      (overlays: kind, database-secret)
set -euo pipefail
overlay=${1:-kind}
cd "$(dirname "$0")"
kubectl=${KUBECTL:-kubectl}
namespace=widget-system
service=widget-apiserver

"$kubectl" apply -f base/namespace.yaml
if ! "$kubectl" -n "$namespace" get secret widget-apiserver-tls >/dev/null 2>&1; then
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj "/CN=$service-ca" -keyout "$dir/ca.key" -out "$dir/ca.crt" 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
    -subj "/CN=$service.$namespace.svc" -keyout "$dir/tls.key" -out "$dir/tls.csr" 2>/dev/null
  printf 'subjectAltName=DNS:%s,DNS:%s,DNS:%s\nextendedKeyUsage=serverAuth\n' \
    "$service.$namespace.svc" "$service.$namespace.svc.cluster.local" localhost > "$dir/extensions"
  openssl x509 -req -days 365 -in "$dir/tls.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" \
    -CAcreateserial -extfile "$dir/extensions" -out "$dir/tls.crt" 2>/dev/null
  "$kubectl" -n "$namespace" create secret generic widget-apiserver-tls --type=kubernetes.io/tls \
    --from-file="$dir/tls.crt" --from-file="$dir/tls.key" --from-file="$dir/ca.crt"
fi

# A Job's template cannot change: an older run makes room for the new one.
"$kubectl" -n "$namespace" delete job widget-migrate --ignore-not-found --wait
"$kubectl" apply -k "overlays/$overlay"

bundle=$("$kubectl" -n "$namespace" get secret widget-apiserver-tls -o 'jsonpath={.data.ca\.crt}')
for version in v1 v1alpha1; do
  "$kubectl" patch apiservice "$version.custom.example.com" --type=merge \
    -p "{\"spec\":{\"caBundle\":\"$bundle\"}}"
done
"$kubectl" -n "$namespace" wait job/widget-migrate --for=condition=Complete --timeout=180s
"$kubectl" -n "$namespace" rollout status deployment/widget-apiserver --timeout=180s
"$kubectl" -n "$namespace" rollout status deployment/widget-controller --timeout=180s
"$kubectl" wait apiservice v1.custom.example.com v1alpha1.custom.example.com \
  --for=condition=Available --timeout=60s
