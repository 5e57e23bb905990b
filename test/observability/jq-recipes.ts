/**
 * The questions that the log files answer with jq, as they are typed in the directory that holds the files.
 * The README quotes them, and a test runs each on what the logger writes.
 */
export interface JqRecipe {
  readonly title: string;
  readonly command: string;
}

export const JQ_RECIPES: readonly JqRecipe[] = [
  {
    title: "Sent but not finished",
    command: `jq -rs 'group_by(.message_id)[]|select(any(.[];.event=="sent") and (any(.[];.event|IN("processed","dead_lettered","expired","cancelled"))|not))|.[0]|[.timestamp,.message_id,.from_agent,.to_agent,.message_type]|@tsv' message_audit_*.jsonl`,
  },
  {
    title: "Seconds from sent to processed, p50 and p95 per recipient",
    command: String.raw`jq -s 'def t:(.timestamp|sub("\\.[0-9]+Z$";"Z")|fromdateiso8601); def p($q):sort|.[((length-1)*$q|floor)]; [group_by(.message_id)[]|{to:.[0].to_agent,s:(map(select(.event=="sent")|t)|min),e:(map(select(.event=="processed")|t)|max)}|select(.s and .e)|{to,d:(.e-.s)}]|group_by(.to)|map({agent:.[0].to,n:length,p50:(map(.d)|p(0.5)),p95:(map(.d)|p(0.95))})' message_audit_*.jsonl`,
  },
  {
    title: "One conversation as a timeline",
    command: String.raw`jq -rs --arg c corr_1 'map(select(.correlation_id==$c))|sort_by(.timestamp)[]|"\(.timestamp) \(.event) \(.message_type) \(.from_agent)->\(.to_agent)"' message_audit_*.jsonl`,
  },
  {
    title: "Everything about one id, over all files",
    command: `jq -c --arg id msg_3 'select([.message_id,.task_id,.correlation_id,.request_id]|index($id))|{file:(input_filename|split("/")[-1])}+.' *.jsonl`,
  },
  {
    title: "Task success rate per agent",
    command: `jq -s 'map(select(.event|IN("completed","failed")))|group_by(.agent_id)|map({agent:.[0].agent_id,total:length,success_rate:((map(select(.data.success))|length)/length)})' task_history_*.jsonl`,
  },
  {
    title: "Tasks without an end",
    command: `jq -rs 'group_by(.task_id)[]|select(all(.[];.event|IN("completed","failed","cancelled","rejected")|not))|max_by(.timestamp)|[.task_id,.agent_id,.event,.timestamp]|@tsv' task_history_*.jsonl`,
  },
  {
    title: "Tasks beyond the time that their agent is allowed (milliseconds per agent)",
    command: `jq -c --argjson max '{"upload-agent":5000,"mapping-agent":10000}' 'select(.data.duration_ms? and .data.duration_ms>($max[.agent_id]//1e9))|{task_id,agent_id,ms:.data.duration_ms}' task_history_*.jsonl`,
  },
  {
    title: "Errors by type, with the agents that met them",
    command: `jq -s 'group_by(.error_type)|map({error_type:.[0].error_type,n:length,agents:(map(.agent_id)|unique)})|sort_by(-.n)' errors_*.jsonl`,
  },
  {
    title: "The messages retried most often",
    command: `jq -rs 'map(select(.event=="retried"))|group_by(.message_id)|map([.[0].message_id,.[0].to_agent,length])|sort_by(-.[2])[:20][]|@tsv' message_audit_*.jsonl`,
  },
  {
    title: "Dead letters by type and reason",
    command: `jq -s 'map(select(.event=="dead_lettered"))|group_by([.message_type,.reason])|map({type:.[0].message_type,reason:.[0].reason,n:length,ids:map(.message_id)})' message_audit_*.jsonl`,
  },
  {
    title: "Agents that said nothing for more than 90 seconds",
    command: String.raw`jq -rs --arg now "$(date -u +%FT%TZ)" 'group_by(.agent_id)|map({a:.[0].agent_id,last:(map(.timestamp)|max)})|map(select((($now|fromdateiso8601)-(.last|sub("\\.[0-9]+Z$";"Z")|fromdateiso8601))>90))[]|[.a,.last]|@tsv' agent_activity_*.jsonl`,
  },
  {
    title: "Who talks to whom, for Graphviz",
    command: String.raw`jq -rs '"digraph{",(map(select(.event=="sent"))|group_by([.from_agent,.to_agent])[]|"  \"\(.[0].from_agent)\"->\"\(.[0].to_agent)\" [label=\(length)]"),"}"' message_audit_*.jsonl`,
  },
  {
    title: "Messages sent per minute",
    command: `jq -rs 'map(select(.event=="sent"))|group_by(.timestamp[:16])[]|[.[0].timestamp[:16],length]|@tsv' message_audit_*.jsonl`,
  },
  {
    title: "Metric averages and maxima per agent",
    command: `jq -s 'group_by([.agent_id,.metric,.unit])|map({agent:.[0].agent_id,metric:.[0].metric,unit:.[0].unit,n:length,avg:(map(.value)|add/length),max:(map(.value)|max)})' performance_*.jsonl`,
  },
];
