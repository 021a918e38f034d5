{{- define "control-plane.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "control-plane.selector" -}}
app.kubernetes.io/name: control-plane
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "control-plane.labels" -}}
{{ include "control-plane.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "control-plane.url" -}}
{{- if .Values.externalUrl }}{{ .Values.externalUrl }}
{{- else if .Values.ingress.enabled }}{{ if .Values.ingress.tlsSecret }}https{{ else }}http{{ end }}://{{ .Values.ingress.host }}
{{- else }}http://{{ include "control-plane.name" . }}.{{ .Release.Namespace }}:{{ .Values.service.port }}
{{- end }}
{{- end }}

{{- /* Whether anything is kept on a volume: what several replicas have is elsewhere. */ -}}
{{- define "control-plane.volume" -}}
{{- and .Values.persistence.enabled (le (int .Values.replicas) 1) }}
{{- end }}

{{- define "control-plane.config" -}}
{{- $name := include "control-plane.name" . }}
{{- $service := printf "%s.%s" $name .Release.Namespace }}
{{- $names := list $name $service (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service) }}
{{- $control := dict "listen" "0.0.0.0" "port" 8450 "allowed_hosts" (concat $names .Values.allowedHosts) }}
{{- if or .Values.externalUrl .Values.ingress.enabled }}{{ $_ := set $control "external_url" (include "control-plane.url" .) }}{{ end }}
{{- if .Values.objectStore.url }}
{{- $store := dict "url" .Values.objectStore.url }}
{{- with .Values.objectStore.endpoint }}{{ $_ := set $store "endpoint" . }}{{ end }}
{{- with .Values.objectStore.region }}{{ $_ := set $store "region" . }}{{ end }}
{{- $_ := set $control "object_store" $store }}
{{- end }}
{{- if .Values.serviceMonitor.scrapeKeySecret }}{{ $_ := set $control "scrape_key_file" "/run/launch/scrape/key" }}{{ end }}
{{- toYaml (dict "control" (mergeOverwrite $control (deepCopy .Values.config))) }}
{{- end }}
