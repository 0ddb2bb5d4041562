{{- define "snapstart.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{- /* Refuses settings that the manifest has variables of its own for: a name is given once. */}}
{{- define "snapstart.fixed" -}}
{{- range .names }}
{{- if hasKey $.settings . }}
{{- fail (printf "%s.settings.%s is the chart's to set; see its other values" $.of .) }}
{{- end }}
{{- end }}
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
{{- with .Values.tracing.endpoint }}
# The collector of traces.
- ports:
    - port: {{ regexFind "^https?://[^/]+" . | regexFind ":[0-9]+$" | trimPrefix ":" | default (ternary 443 80 (hasPrefix "https:" .)) }}
{{- end }}
{{- end }}

{{- /* Variables of traces; the argument has the values, and with what the program's settings begin. */}}
{{- define "snapstart.tracing" -}}
{{- with .values.tracing.endpoint }}
- name: NODE_IP
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
- name: {{ $.prefix }}_TRACING__ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}
