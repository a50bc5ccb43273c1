{{/* Labels of every object. */}}
{{- define "csi-s3.labels" -}}
app.kubernetes.io/name: csi-s3
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels of the pods, by component. Guides use `app` to find logs. */}}
{{- define "csi-s3.podLabels" -}}
{{ include "csi-s3.selector" . }}
{{- $labels := dict
    "app.kubernetes.io/name" "csi-s3"
    "app.kubernetes.io/instance" .root.Release.Name
    "app.kubernetes.io/component" .component }}
{{ merge (omit .root.Values.node.podLabels "app" "component") $labels | toYaml }}
{{- end -}}

{{- define "csi-s3.selector" -}}
app: s3-csi-node
component: {{ .component }}
{{- end -}}

{{- define "csi-s3.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "csi-s3.imagePullSecrets" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ .name }}{{ end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Paths on the node; in the pods they are the same. */}}
{{- define "csi-s3.pluginDir" -}}
{{ trimSuffix "/" .Values.node.kubeletPath }}/plugins/{{ .Values.driverName }}
{{- end -}}

{{/* Where both DaemonSets run. */}}
{{- define "csi-s3.scheduling" -}}
nodeSelector:
  kubernetes.io/os: linux
  {{- with omit .Values.node.nodeSelector "kubernetes.io/os" }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.node.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := list }}
{{- if .Values.node.tolerateAllTaints }}
{{- $tolerations = list (dict "operator" "Exists") }}
{{- else }}
{{- $tolerations = .Values.node.tolerations }}
{{- if .Values.node.defaultTolerations }}
{{- $tolerations = concat $tolerations (list
      (dict "key" "CriticalAddonsOnly" "operator" "Exists")
      (dict "operator" "Exists" "effect" "NoExecute" "tolerationSeconds" 300)) }}
{{- end }}
{{- if include "csi-s3.startupTaintEnabled" . }}
{{- $tolerations = append $tolerations (dict "key" (include "csi-s3.startupTaint" .) "operator" "Exists") }}
{{- end }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "csi-s3.startupTaint" -}}
{{ .Values.startupTaint.key | default (printf "%s/agent-not-ready" .Values.driverName) }}
{{- end -}}

{{/* One option per line, each with a line end, so that a comma in a value does not separate. */}}
{{- define "csi-s3.defaultMountOptions" -}}
{{- range .Values.defaultMountOptions }}{{ . }}{{ "\n" }}{{ end -}}
{{- end -}}

{{- define "csi-s3.nodeServiceAccount" -}}
s3-csi-node-sa
{{- end -}}

{{/* The values in which guides describe the driver's service account, by name. */}}
{{- define "csi-s3.driverAccounts" -}}
{{- toYaml (dict
    "serviceAccount" .Values.serviceAccount
    "node.serviceAccount" .Values.node.serviceAccount
    "controller.serviceAccount" .Values.controller.serviceAccount
    "mounter.serviceAccount" .Values.mounter.serviceAccount) -}}
{{- end -}}

{{- define "csi-s3.driverServiceAccount" -}}
{{- $name := "" -}}
{{- $from := "" -}}
{{- range $where, $account := include "csi-s3.driverAccounts" . | fromYaml -}}
{{- if $account.name -}}
{{- if and $name (ne $name $account.name) -}}
{{- fail (printf "\n\n%s.name is %q and %s.name is %q. Both name the service account that the driver uses for S3: keep one of them.\n" $from $name $where $account.name) -}}
{{- end -}}
{{- $name = $account.name -}}
{{- $from = $where -}}
{{- end -}}
{{- end -}}
{{- $name = $name | default "s3-csi-driver-sa" -}}
{{- if eq $name (include "csi-s3.nodeServiceAccount" .) -}}
{{- fail (printf "\n\n%s.name is %q, which is the service account of the node plugin. The S3 identity is that of the mounter: use another name, or none for s3-csi-driver-sa.\n" $from $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* The merged annotations of all places. Two different values of one annotation are an error. An
     empty role is none: templated values files leave it empty without IRSA. */}}
{{- define "csi-s3.driverAnnotations" -}}
{{- $merged := dict -}}
{{- $from := dict -}}
{{- range $where, $account := include "csi-s3.driverAccounts" . | fromYaml -}}
{{- range $key, $value := $account.annotations -}}
{{- if or $value (ne $key "eks.amazonaws.com/role-arn") -}}
{{- if and (hasKey $merged $key) (ne (get $merged $key) $value) -}}
{{- fail (printf "\n\n%s.annotations and %s.annotations give %s two values:\n  %s\n  %s\nThe driver has one identity, service account %s: keep one of them.\n" (get $from $key) $where $key (get $merged $key) $value (include "csi-s3.driverServiceAccount" $)) -}}
{{- end -}}
{{- $_ := set $merged $key $value -}}
{{- $_ := set $from $key $where -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* "yes" if the release creates the driver's service account. An existing account is used
     unchanged if it has the annotations of the values; Helm could not adopt it. */}}
{{- define "csi-s3.createDriverServiceAccount" -}}
{{- $create := true -}}
{{- range $where, $account := include "csi-s3.driverAccounts" . | fromYaml -}}
{{- if and (eq (toString $account.create) "false") (ne $where "controller.serviceAccount") -}}
{{- $create = false -}}
{{- end -}}
{{- end -}}
{{- $name := include "csi-s3.driverServiceAccount" . -}}
{{- $wanted := include "csi-s3.driverAnnotations" . | fromYaml -}}
{{- $found := lookup "v1" "ServiceAccount" .Release.Namespace $name -}}
{{- if $found -}}
{{- $has := ($found.metadata).annotations | default dict -}}
{{- $ours := and (eq (get $has "meta.helm.sh/release-name") .Release.Name) (eq (get $has "meta.helm.sh/release-namespace") .Release.Namespace) -}}
{{- if or (not $ours) (not $create) -}}
{{- if not $ours -}}{{- $create = false -}}{{- end -}}
{{- range $key, $value := $wanted -}}
{{- if ne (get $has $key) $value -}}
{{- fail (printf "\n\nService account %s/%s exists and was not created by this release, so the chart uses it unchanged. The values set the annotation\n  %s: %s\nbut the account has: %s. Either annotate it:\n  kubectl annotate serviceaccount --namespace %s %s --overwrite %s=%s\nor leave the annotation out of the values, or delete the service account.\n" $.Release.Namespace $name $key $value (get $has $key | default "none") $.Release.Namespace $name $key $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- else if and $create (eq (toString .Values.controller.serviceAccount.create) "false") -}}
{{- fail (printf "\n\ncontroller.serviceAccount.create is false, and this driver has no controller, so it needs no such account. If %s, the account that the driver uses for S3, is created outside this chart, set serviceAccount.create=false; otherwise remove controller.serviceAccount.create.\n" $name) -}}
{{- end -}}
{{- if $create }}yes{{ end -}}
{{- end -}}

{{/* ValidatingAdmissionPolicy and the node name in a pod's token exist since 1.30. */}}
{{- define "csi-s3.hasAdmissionPolicy" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end -}}

{{/* Whether the node plugin takes the startup taint away: only where a policy limits it to that. */}}
{{- define "csi-s3.startupTaintEnabled" -}}
{{- $enabled := .Values.startupTaint.enabled }}
{{- if include "csi-s3.hasAdmissionPolicy" . }}
{{- if $enabled }}yes{{ end }}
{{- else if and $enabled (ne (toString $enabled) "auto") }}
{{- fail (printf "\n\nstartupTaint.enabled is true, and this cluster is Kubernetes %s: the right to patch nodes cannot be limited to a pod's own node before 1.30, so that the token of one node could change all of them. Set it to false or auto, and use no startup taint.\n" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- end -}}

{{/* The memory that is divided among volumes; empty: neither memory nor number is limited. */}}
{{- define "csi-s3.mounterMemoryLimit" -}}
{{ with ((.Values.mounter.resources).limits).memory }}{{ . }}{{ end }}
{{- end -}}

{{/* The mounter's environment. A variable of mounter.env that a value also sets would occur twice,
     which the API server refuses only for some kinds of request. */}}
{{- define "csi-s3.mounterEnv" -}}
{{- $ours := include "csi-s3.mounterOwnEnv" . | trim -}}
{{- $seen := dict -}}
{{- range $ours | fromYamlArray -}}{{- $_ := set $seen .name "a value of the chart" -}}{{- end -}}
{{- range $item := .Values.mounter.env -}}
{{- with get $seen $item.name -}}
{{- fail (printf "\n\nmounter.env sets %s, and so does %s: keep one of them. Values of the chart: mounter.resources, s3, sts, proxy, eksPodIdentityAgent.\n" $item.name .) -}}
{{- end -}}
{{- $_ := set $seen $item.name "another item of mounter.env" -}}
{{- end -}}
{{ $ours }}
{{- with .Values.mounter.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Values for the mounter only: limits, and how S3 is reached. */}}
{{- define "csi-s3.mounterOwnEnv" -}}
- {name: CSI_S3_CREDENTIALS_SECRET, value: {{ .Values.awsAccessSecret.name | quote }}}  # for messages
{{- if include "csi-s3.mounterMemoryLimit" . }}
- name: CSI_S3_MEMORY_LIMIT
  valueFrom: {resourceFieldRef: {containerName: s3-plugin, resource: limits.memory}}
{{- end }}
{{- with .Values.s3.endpointUrl }}
- {name: AWS_ENDPOINT_URL_S3, value: {{ . | quote }}}
{{- end }}
{{- with .Values.s3.region }}
- {name: AWS_REGION, value: {{ . | quote }}}
{{- end }}
{{- with .Values.sts.endpointUrl }}
- {name: AWS_ENDPOINT_URL_STS, value: {{ . | quote }}}
{{- end }}
{{- if or .Values.s3.caBundle.configMap .Values.s3.caBundle.secret }}
- {name: AWS_CA_BUNDLE, value: /etc/csi-s3/ca/ca.crt}
{{- end }}
{{- with .Values.eksPodIdentityAgent.containerCredentialsFullURI }}
- {name: AWS_CONTAINER_CREDENTIALS_FULL_URI, value: {{ . | quote }}}
{{- end }}
{{- with .Values.proxy.httpProxy }}
- {name: HTTP_PROXY, value: {{ . | quote }}}
{{- end }}
{{- with .Values.proxy.httpsProxy }}
- {name: HTTPS_PROXY, value: {{ . | quote }}}
{{- end }}
{{- with .Values.proxy.noProxy }}
- {name: NO_PROXY, value: {{ . | quote }}}
{{- end }}
{{- end -}}

{{/* Names of the test's volume. The source of a PersistentVolume cannot be changed, so another
     source needs another name. */}}
{{- define "csi-s3.testVolume" -}}
{{- $of := list .Values.driverName .Values.tests.bucket .Values.tests.write .Values.tests.mountOptions | toJson }}
{{- printf "%s-test-%s" .Release.Name (sha256sum $of | trunc 8) }}
{{- end }}
