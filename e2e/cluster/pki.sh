# shellcheck shell=bash
# Certificates, tokens and kubeconfigs of the cluster; sourced by up.sh. Made once per state.

PKI=$STATE/pki

_openssl() { openssl "$@" 2>>"$LOG/openssl.log" || { tail -3 "$LOG/openssl.log" >&2; return 1; }; }

_key() { _openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$1.key"; }

_certificate() { # name subject extensions
  local at=$PKI/$1
  _key "$1"
  _openssl req -new -key "$at.key" -subj "$2" -out "$at.csr"
  _openssl x509 -req -in "$at.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 3650 \
    -extfile <(printf '%s\n' "$3") -out "$at.crt"
  rm "$at.csr"
}

_token() { echo "$(openssl rand -hex 16),$1,$1,\"${2:-}\"" >>"$PKI/tokens.csv"; } # user groups

_kubeconfig() { # user file
  local token ca
  token=$(awk -F, -v user="$1" '$2 == user {print $1}' "$PKI/tokens.csv")
  ca=$(base64 -w0 "$PKI/ca.crt")
  cat >"$2" <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$HOST_IP:$API_PORT", certificate-authority-data: $ca}}]
users: [{name: u, user: {token: $token}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
Y
  chmod 600 "$2"
}

make_pki() {
  local name i
  [ ! -e "$PKI/done" ] || return 0
  mkdir -p "$PKI"
  chmod 700 "$PKI"
  _key ca
  _openssl req -x509 -new -key "$PKI/ca.key" -subj /CN=kubernetes-ca -days 3650 -out "$PKI/ca.crt"
  name=kubernetes.default.svc
  _certificate apiserver /CN=kube-apiserver "extendedKeyUsage=serverAuth
subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:$name,DNS:$name.cluster.local,DNS:localhost,\
IP:127.0.0.1,IP:$HOST_IP,IP:$SERVICE_NET.0.1"
  _certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client \
    extendedKeyUsage=clientAuth
  _certificate front-proxy-client /CN=front-proxy-client extendedKeyUsage=clientAuth
  _openssl genrsa -out "$PKI/sa.key" 2048
  _openssl rsa -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub"
  : >"$PKI/tokens.csv"
  _token admin system:masters
  _token coredns system:masters
  _token system:kube-controller-manager
  _token system:kube-scheduler
  _token system:kube-proxy system:node-proxier
  for i in $(seq "$MAX_NODES"); do _token "system:node:node$i" system:nodes; done
  _kubeconfig admin "$KUBECONFIG"
  _kubeconfig coredns "$PKI/coredns.kubeconfig"
  for name in kube-controller-manager kube-scheduler kube-proxy; do
    _kubeconfig "system:$name" "$PKI/$name.kubeconfig"
  done
  for i in $(seq "$MAX_NODES"); do _kubeconfig "system:node:node$i" "$PKI/node$i.kubeconfig"; done
  touch "$PKI/done"
}
