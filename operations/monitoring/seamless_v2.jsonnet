{
 "bundle": "seamless_v2",
 "version": "2.0.0",
 "dashboards": [
  {
   "title": "Seamless SLA Overview",
   "uid": "seamless-sla",
   "schemaVersion": 41,
   "version": 1,
   "editable": true,
   "refresh": "15s",
   "timezone": "utc",
   "time": {
    "from": "now-6h",
    "to": "now"
   },
   "tags": [
    "qmtl",
    "seamless"
   ],
   "annotations": {
    "list": []
   },
   "links": [],
   "templating": {
    "list": [
     {
      "name": "datasource",
      "type": "datasource",
      "query": "prometheus",
      "label": "Data source",
      "hide": 0
     },
     {
      "name": "instance",
      "type": "query",
      "label": "Process",
      "datasource": {
       "type": "prometheus",
       "uid": "${datasource}"
      },
      "query": {
       "query": "label_values(seamless_sla_deadline_seconds_count, instance)",
       "refId": "instance"
      },
      "refresh": 2,
      "multi": true,
      "includeAll": true,
      "current": {
       "text": "All",
       "value": "$__all"
      }
     }
    ]
   },
   "panels": [
    {
     "id": 1,
     "type": "stat",
     "title": "Total p99",
     "description": "99 of 100 fetches are answered within this time; the alert fires above 240 s.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 0,
      "w": 6,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "s",
       "thresholds": {
        "mode": "absolute",
        "steps": [
         {
          "color": "green",
          "value": null
         },
         {
          "color": "red",
          "value": 240
         }
        ]
       }
      },
      "overrides": []
     },
     "options": {
      "reduceOptions": {
       "calcs": [
        "lastNotNull"
       ],
       "fields": "",
       "values": false
      },
      "colorMode": "background"
     },
     "targets": [
      {
       "refId": "A",
       "expr": "max(seamless_sla_total_p99_seconds{instance=~\"$instance\"})",
       "legendFormat": "",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 2,
     "type": "timeseries",
     "title": "Total p99 by process",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 6,
      "y": 0,
      "w": 9,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "s"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "seamless_sla_total_p99_seconds{instance=~\"$instance\"}",
       "legendFormat": "{{instance}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 3,
     "type": "timeseries",
     "title": "Total p95",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 15,
      "y": 0,
      "w": 9,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "s"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "histogram_quantile(0.95, sum by (le) (rate(seamless_sla_deadline_seconds_bucket{phase=\"total\", instance=~\"$instance\"}[5m])))",
       "legendFormat": "p95",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 4,
     "type": "timeseries",
     "title": "p99 by phase",
     "description": "Where the time of a fetch goes.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 7,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "s"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "histogram_quantile(0.99, sum by (phase, le) (rate(seamless_sla_deadline_seconds_bucket{instance=~\"$instance\"}[5m])))",
       "legendFormat": "{{phase}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 5,
     "type": "timeseries",
     "title": "Incomplete answers by reason",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 12,
      "y": 7,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (reason) (increase(partial_fill_returns_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "{{reason}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 6,
     "type": "timeseries",
     "title": "Held answers by reason",
     "description": "Answers that no node may see.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 14,
      "w": 8,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (reason) (increase(domain_gate_holds_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "{{reason}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 7,
     "type": "timeseries",
     "title": "Coverage of the last answer",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 8,
      "y": 14,
      "w": 8,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "percentunit"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "min by (node_id, interval) (coverage_ratio{instance=~\"$instance\"})",
       "legendFormat": "{{node_id}} {{interval}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 8,
     "type": "timeseries",
     "title": "Cache",
     "description": "Share of fetches that found rows, and what they occupy.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 16,
      "y": 14,
      "w": 8,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum(rate(seamless_cache_hit_total{instance=~\"$instance\"}[5m])) / (sum(rate(seamless_cache_hit_total{instance=~\"$instance\"}[5m])) + sum(rate(seamless_cache_miss_total{instance=~\"$instance\"}[5m])))",
       "legendFormat": "hit share",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      },
      {
       "refId": "B",
       "expr": "sum(seamless_cache_resident_bytes{instance=~\"$instance\"}) / 1048576",
       "legendFormat": "MiB",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    }
   ]
  },
  {
   "title": "Backfill Coordinator Health",
   "uid": "seamless-backfill",
   "schemaVersion": 41,
   "version": 1,
   "editable": true,
   "refresh": "15s",
   "timezone": "utc",
   "time": {
    "from": "now-6h",
    "to": "now"
   },
   "tags": [
    "qmtl",
    "seamless"
   ],
   "annotations": {
    "list": []
   },
   "links": [],
   "templating": {
    "list": [
     {
      "name": "datasource",
      "type": "datasource",
      "query": "prometheus",
      "label": "Data source",
      "hide": 0
     },
     {
      "name": "instance",
      "type": "query",
      "label": "Process",
      "datasource": {
       "type": "prometheus",
       "uid": "${datasource}"
      },
      "query": {
       "query": "label_values(backfill_jobs_in_progress, instance)",
       "refId": "instance"
      },
      "refresh": 2,
      "multi": true,
      "includeAll": true,
      "current": {
       "text": "All",
       "value": "$__all"
      }
     }
    ]
   },
   "panels": [
    {
     "id": 1,
     "type": "stat",
     "title": "Coordinator up",
     "description": "0 while it does not answer; no value where none is configured.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 0,
      "w": 6,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short",
       "thresholds": {
        "mode": "absolute",
        "steps": [
         {
          "color": "red",
          "value": null
         },
         {
          "color": "green",
          "value": 1
         }
        ]
       },
       "mappings": [
        {
         "type": "value",
         "options": {
          "0": {
           "text": "DOWN"
          },
          "1": {
           "text": "up"
          }
         }
        }
       ]
      },
      "overrides": []
     },
     "options": {
      "reduceOptions": {
       "calcs": [
        "lastNotNull"
       ],
       "fields": "",
       "values": false
      },
      "colorMode": "background"
     },
     "targets": [
      {
       "refId": "A",
       "expr": "min(seamless_coordinator_up{instance=~\"$instance\"})",
       "legendFormat": "",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 2,
     "type": "timeseries",
     "title": "Active jobs",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 6,
      "y": 0,
      "w": 9,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (node_id, interval) (backfill_jobs_in_progress{instance=~\"$instance\"})",
       "legendFormat": "{{node_id}} {{interval}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 3,
     "type": "timeseries",
     "title": "Completion by series",
     "description": "Share of a job's cells that are stored or confirmed empty.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 15,
      "y": 0,
      "w": 9,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "percentunit"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "min by (node_id, interval) (backfill_completion_ratio{instance=~\"$instance\"})",
       "legendFormat": "{{node_id}} {{interval}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 4,
     "type": "table",
     "title": "Last timestamps",
     "description": "Newest bar that a backfill stored.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 7,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "dateTimeAsIso"
      },
      "overrides": []
     },
     "options": {
      "showHeader": true
     },
     "targets": [
      {
       "refId": "A",
       "expr": "max by (node_id, interval) (backfill_last_timestamp{instance=~\"$instance\"}) * 1000",
       "legendFormat": "",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       },
       "instant": true,
       "format": "table"
      }
     ]
    },
    {
     "id": 5,
     "type": "timeseries",
     "title": "Failures and retries",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 12,
      "y": 7,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (node_id) (increase(backfill_failure_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "failed {{node_id}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      },
      {
       "refId": "B",
       "expr": "sum by (node_id) (increase(backfill_retry_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "sent again {{node_id}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 6,
     "type": "timeseries",
     "title": "Gap repair p99",
     "description": "From noticing a gap to having it stored.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 14,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "s"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "histogram_quantile(0.99, sum by (le) (rate(gap_repair_latency_seconds_bucket{instance=~\"$instance\"}[15m])))",
       "legendFormat": "p99",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 7,
     "type": "timeseries",
     "title": "Exchange requests by outcome",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 12,
      "y": 14,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "reqps"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (exchange, outcome) (rate(seamless_exchange_requests_total{instance=~\"$instance\"}[5m]))",
       "legendFormat": "{{exchange}} {{outcome}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    }
   ]
  },
  {
   "title": "Conformance Quality",
   "uid": "seamless-conformance",
   "schemaVersion": 41,
   "version": 1,
   "editable": true,
   "refresh": "15s",
   "timezone": "utc",
   "time": {
    "from": "now-6h",
    "to": "now"
   },
   "tags": [
    "qmtl",
    "seamless"
   ],
   "annotations": {
    "list": []
   },
   "links": [],
   "templating": {
    "list": [
     {
      "name": "datasource",
      "type": "datasource",
      "query": "prometheus",
      "label": "Data source",
      "hide": 0
     },
     {
      "name": "instance",
      "type": "query",
      "label": "Process",
      "datasource": {
       "type": "prometheus",
       "uid": "${datasource}"
      },
      "query": {
       "query": "label_values(seamless_conformance_flag_total, instance)",
       "refId": "instance"
      },
      "refresh": 2,
      "multi": true,
      "includeAll": true,
      "current": {
       "text": "All",
       "value": "$__all"
      }
     }
    ]
   },
   "panels": [
    {
     "id": 1,
     "type": "stat",
     "title": "Flags in 15 minutes",
     "description": "Rows that were flagged; the alert fires above 50 for one series.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 0,
      "w": 6,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short",
       "thresholds": {
        "mode": "absolute",
        "steps": [
         {
          "color": "green",
          "value": null
         },
         {
          "color": "red",
          "value": 50
         }
        ]
       }
      },
      "overrides": []
     },
     "options": {
      "reduceOptions": {
       "calcs": [
        "lastNotNull"
       ],
       "fields": "",
       "values": false
      },
      "colorMode": "background"
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum(increase(seamless_conformance_flag_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 2,
     "type": "timeseries",
     "title": "Flags by node",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 6,
      "y": 0,
      "w": 9,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (node_id) (increase(seamless_conformance_flag_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "{{node_id}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 3,
     "type": "timeseries",
     "title": "Flags by type",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 15,
      "y": 0,
      "w": 9,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (flag_type) (increase(seamless_conformance_flag_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "{{flag_type}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 4,
     "type": "timeseries",
     "title": "Warnings",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 7,
      "w": 8,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (node_id) (increase(seamless_conformance_warning_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "{{node_id}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 5,
     "type": "timeseries",
     "title": "Artifact publish p99",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 8,
      "y": 7,
      "w": 8,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "s"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "histogram_quantile(0.99, sum by (le) (rate(artifact_publish_latency_seconds_bucket{instance=~\"$instance\"}[15m])))",
       "legendFormat": "p99",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 6,
     "type": "timeseries",
     "title": "Artifact bytes",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 16,
      "y": 7,
      "w": 8,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "Bps"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (node_id) (rate(artifact_bytes_written_total{instance=~\"$instance\"}[5m]))",
       "legendFormat": "{{node_id}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    }
   ]
  },
  {
   "title": "Live and Limits",
   "uid": "seamless-live",
   "schemaVersion": 41,
   "version": 1,
   "editable": true,
   "refresh": "15s",
   "timezone": "utc",
   "time": {
    "from": "now-6h",
    "to": "now"
   },
   "tags": [
    "qmtl",
    "seamless"
   ],
   "annotations": {
    "list": []
   },
   "links": [],
   "templating": {
    "list": [
     {
      "name": "datasource",
      "type": "datasource",
      "query": "prometheus",
      "label": "Data source",
      "hide": 0
     },
     {
      "name": "instance",
      "type": "query",
      "label": "Process",
      "datasource": {
       "type": "prometheus",
       "uid": "${datasource}"
      },
      "query": {
       "query": "label_values(live_staleness_seconds, instance)",
       "refId": "instance"
      },
      "refresh": 2,
      "multi": true,
      "includeAll": true,
      "current": {
       "text": "All",
       "value": "$__all"
      }
     }
    ]
   },
   "panels": [
    {
     "id": 1,
     "type": "timeseries",
     "title": "Staleness",
     "description": "Age of the newest covered cell at the last answer; the alert fires above 120 s.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 0,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "s"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "max by (node_id, interval) (live_staleness_seconds{instance=~\"$instance\"})",
       "legendFormat": "{{node_id}} {{interval}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 2,
     "type": "timeseries",
     "title": "Reconnects",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 12,
      "y": 0,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (exchange) (increase(seamless_live_reconnects_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "{{exchange}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 3,
     "type": "timeseries",
     "title": "Limiter wait p99",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 7,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "s"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "histogram_quantile(0.99, sum by (limiter, le) (rate(seamless_rl_wait_seconds_bucket{instance=~\"$instance\"}[5m])))",
       "legendFormat": "{{limiter}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 4,
     "type": "stat",
     "title": "Degraded limiters",
     "description": "Limiters whose shared bucket is out of reach.",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 12,
      "y": 7,
      "w": 4,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short",
       "thresholds": {
        "mode": "absolute",
        "steps": [
         {
          "color": "green",
          "value": null
         },
         {
          "color": "red",
          "value": 1
         }
        ]
       }
      },
      "overrides": []
     },
     "options": {
      "reduceOptions": {
       "calcs": [
        "lastNotNull"
       ],
       "fields": "",
       "values": false
      },
      "colorMode": "background"
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum(seamless_rl_degraded{instance=~\"$instance\"})",
       "legendFormat": "",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 5,
     "type": "timeseries",
     "title": "Tokens available",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 16,
      "y": 7,
      "w": 8,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "min by (limiter) (seamless_rl_tokens_available{instance=~\"$instance\"})",
       "legendFormat": "{{limiter}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    },
    {
     "id": 6,
     "type": "timeseries",
     "title": "Waits given up",
     "description": "",
     "datasource": {
      "type": "prometheus",
      "uid": "${datasource}"
     },
     "gridPos": {
      "x": 0,
      "y": 14,
      "w": 12,
      "h": 7
     },
     "fieldConfig": {
      "defaults": {
       "unit": "short"
      },
      "overrides": []
     },
     "options": {
      "legend": {
       "displayMode": "list",
       "placement": "bottom"
      },
      "tooltip": {
       "mode": "multi"
      }
     },
     "targets": [
      {
       "refId": "A",
       "expr": "sum by (limiter, reason) (increase(seamless_rl_dropped_total{instance=~\"$instance\"}[15m]))",
       "legendFormat": "{{limiter}} {{reason}}",
       "datasource": {
        "type": "prometheus",
        "uid": "${datasource}"
       }
      }
     ]
    }
   ]
  }
 ],
 "recordingRules": [
  {
   "record": "seamless_sla_total_p99_seconds",
   "expr": "histogram_quantile(0.99, sum by (job, instance, le) (rate(seamless_sla_deadline_seconds_bucket{phase=\"total\"}[5m])))"
  }
 ],
 "alerts": [
  {
   "alert": "SeamlessSla99thDegraded",
   "expr": "seamless_sla_total_p99_seconds > 240",
   "for": "5m",
   "labels": {
    "severity": "page"
   },
   "annotations": {
    "summary": "One fetch of history in a hundred at {{ $labels.instance }} takes over {{ $value | humanizeDuration }}.",
    "runbook_url": "docs/en/runbook/SeamlessSla99thDegraded.md"
   }
  },
  {
   "alert": "SeamlessBackfillStuckLease",
   "expr": "(backfill_completion_ratio < 0.5) and on (job, instance, node_id, interval) (backfill_jobs_in_progress > 0)",
   "for": "10m",
   "labels": {
    "severity": "warn"
   },
   "annotations": {
    "summary": "The backfill of {{ $labels.node_id }} is at {{ $value | humanizePercentage }} and does not finish.",
    "runbook_url": "docs/en/runbook/SeamlessBackfillStuckLease.md"
   }
  },
  {
   "alert": "SeamlessConformanceFlagSpike",
   "expr": "sum by (job, instance, node_id) (increase(seamless_conformance_flag_total[15m])) > 50 or sum by (job, instance, node_id) (seamless_conformance_flag_total unless seamless_conformance_flag_total offset 15m) > 50",
   "labels": {
    "severity": "warn"
   },
   "annotations": {
    "summary": "{{ $value | humanize }} rows of {{ $labels.node_id }} were flagged in 15 minutes.",
    "runbook_url": "docs/en/runbook/SeamlessConformanceFlagSpike.md"
   }
  },
  {
   "alert": "SeamlessCoordinatorDown",
   "expr": "seamless_coordinator_up == 0",
   "for": "2m",
   "labels": {
    "severity": "page"
   },
   "annotations": {
    "summary": "{{ $labels.instance }} has no coordinator; backfills go on without leases.",
    "runbook_url": "docs/en/runbook/SeamlessCoordinatorDown.md"
   }
  },
  {
   "alert": "SeamlessRateLimiterDegraded",
   "expr": "seamless_rl_degraded == 1",
   "for": "5m",
   "labels": {
    "severity": "warn"
   },
   "annotations": {
    "summary": "{{ $labels.limiter }} at {{ $labels.instance }} runs at a reduced rate: its shared bucket is out of reach.",
    "runbook_url": "docs/en/runbook/SeamlessRateLimiterDegraded.md"
   }
  },
  {
   "alert": "SeamlessLiveStale",
   "expr": "live_staleness_seconds > 120",
   "for": "2m",
   "labels": {
    "severity": "page"
   },
   "annotations": {
    "summary": "{{ $labels.node_id }} is {{ $value | humanizeDuration }} behind.",
    "runbook_url": "docs/en/runbook/SeamlessLiveStale.md"
   }
  }
 ]
}
