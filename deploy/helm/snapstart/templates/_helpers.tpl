{{- define "snapstart.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{- /* Names, and the API server. */}}
{{- define "snapstart.egress" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - port: {{ . }}
    {{- end }}
{{- end }}
