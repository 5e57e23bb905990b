import type { AuctionTerms, Bid } from "../../protocol/auctions.ts";
import type { Task } from "../../protocol/tasks.ts";

export const names = (bids: readonly Bid[]) => bids.map(({ agentId }) => agentId);

export function termsOf({ auction }: Task): AuctionTerms {
  return auction as AuctionTerms;
}

/** Chains of their own: however a task was made, its auction is not a step of a conversation. */
export const about = (task: Task) => ({
  fromAgent: task.supervisorId,
  taskId: task.taskId,
  priority: task.priority,
  correlationId: task.correlationId ?? undefined,
  contextId: task.contextId ?? undefined,
  hops: 0,
});

export function callOf(task: Task, round: number): Record<string, unknown> {
  return {
    task_id: task.taskId,
    round,
    task_type: task.taskType,
    description: task.description,
    parameters: task.parameters,
    required_capabilities: [...task.requiredCapabilities],
    cost: task.cost,
    priority: task.priority,
    bid_until: new Date(task.auctionEndsAt ?? 0).toISOString(),
  };
}
