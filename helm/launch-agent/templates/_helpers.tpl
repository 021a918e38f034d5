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
{{- $kubernetes := dict "enabled" true "in_cluster" true "namespace" (include "launch-agent.jobNamespace" .) }}
{{- $off := dict "enabled" false }}
{{- $_ := set $config "runners" (dict "kubernetes" $kubernetes "local-container" $off "local-process" $off) }}
{{- $_ := set $config "builder" (dict "type" "noop") }}
{{- $_ := set $config "health" (dict "listen" "0.0.0.0" "port" 8451) }}
{{- $given := mergeOverwrite (fromYaml .Values.launchConfig) (deepCopy .Values.config) }}
{{- if $given.Error }}{{ fail (printf "launchConfig is no YAML: %s" $given.Error) }}{{ end }}
{{- toYaml (mergeOverwrite $config $given) }}
{{- end }}
