{{- define "launch-agent.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "launch-agent.selector" -}}
app.kubernetes.io/name: launch-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "launch-agent.labels" -}}
{{ include "launch-agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "launch-agent.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "launch-agent.name" .) }}
{{- end }}

{{- define "launch-agent.secret" -}}
{{ .Values.agent.existingSecret | default (printf "%s-key" (include "launch-agent.name" .)) }}
{{- end }}

{{- define "launch-agent.buildkit" -}}
{{ printf "%s-buildkit" (include "launch-agent.name" .) }}
{{- end }}

{{- define "launch-agent.buildkitSelector" -}}
app.kubernetes.io/name: launch-agent-buildkit
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "launch-agent.buildkitLabels" -}}
{{ include "launch-agent.buildkitSelector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Keys of a Secret as cert-manager names them, under the names that BuildKit's clients look for. */}}
{{- define "launch-agent.certificateFiles" -}}
- {key: ca.crt, path: ca.pem}
- {key: tls.crt, path: cert.pem}
- {key: tls.key, path: key.pem}
{{- end }}

{{/*
The two Secrets of BuildKit's mutual TLS: those of the cluster, else new ones of one authority, whose
key is kept nowhere. One without the other would not fit.
*/}}
{{- define "launch-agent.buildkitCertificates" -}}
{{- $name := include "launch-agent.buildkit" . }}
{{- $server := lookup "v1" "Secret" .Release.Namespace (printf "%s-server" $name) | default dict }}
{{- $client := lookup "v1" "Secret" .Release.Namespace (printf "%s-client" $name) | default dict }}
{{- $found := dict "server" $server.data "client" $client.data }}
{{- if not (and $server.data $client.data) }}
{{- $days := 3650 }}
{{- $authority := genCA $name $days }}
{{- $host := printf "%s.%s" $name .Release.Namespace }}
{{- $names := list $name $host (printf "%s.svc" $host) }}
{{- range $bearer, $made := dict "server" (genSignedCert $host nil $names $days $authority) "client" (genSignedCert "launch-agent" nil nil $days $authority) }}
{{- $data := dict "ca.crt" (b64enc $authority.Cert) "tls.crt" (b64enc $made.Cert) "tls.key" (b64enc $made.Key) }}
{{- $_ := set $found $bearer $data }}
{{- end }}
{{- end }}
{{- range $bearer, $data := $found }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ $name }}-{{ $bearer }}
  labels: {{- include "launch-agent.buildkitLabels" $ | nindent 4 }}
type: kubernetes.io/tls
data: {{- toYaml $data | nindent 2 }}
{{- end }}
{{- end }}

{{- define "launch-agent.jobNamespace" -}}
{{ .Values.namespace | default .Release.Namespace }}
{{- end }}

{{/* The agent's configuration: what the values say, then `launchConfig`, then `config`. */}}
{{- define "launch-agent.config" -}}
{{- $server := .Values.server | default .Values.baseUrl }}
{{- $config := dict "queues" .Values.queues "max_jobs" .Values.agent.maxJobs "on_stop" "detach" }}
{{- if .Values.entity }}{{ $_ := set $config "entity" .Values.entity }}{{ end }}
{{- $_ := set $config "server" (dict "url" $server "api_key_file" "/run/launch/key/api-key") }}
{{- if .Values.customCABundle }}{{ $_ := set $config.server "ca_bundle" "/run/launch/ca/ca.pem" }}{{ end }}
{{- $kubernetes := dict "enabled" true "in_cluster" true "namespace" (include "launch-agent.jobNamespace" .) "code_image" .Values.agent.image }}
{{- $off := dict "enabled" false }}
{{- $_ := set $config "runners" (dict "kubernetes" $kubernetes "local-container" $off "local-process" $off) }}
{{- $builder := dict "type" "noop" }}
{{- if .Values.buildkit.enabled }}
{{- $address := printf "tcp://%s.%s:1234" (include "launch-agent.buildkit" .) .Release.Namespace }}
{{- $builder = dict "type" "kubernetes" "buildkit" $address "buildkit_certs" "/run/launch/buildkit" }}
{{- end }}
{{- if .Values.customCABundle }}
{{- $_ := set $builder "ca_bundle" "/run/launch/ca/ca.pem" }}
{{- $_ := set $config "sources" (dict "git" (dict "ca_bundle" "/run/launch/ca/ca.pem")) }}
{{- end }}
{{- $_ := set $config "builder" $builder }}
{{- $_ := set $config "health" (dict "listen" "0.0.0.0" "port" 8451) }}
{{- $given := mergeOverwrite (fromYaml .Values.launchConfig) (deepCopy .Values.config) }}
{{- if $given.Error }}{{ fail (printf "launchConfig is no YAML: %s" $given.Error) }}{{ end }}
{{- toYaml (mergeOverwrite $config $given) }}
{{- end }}
