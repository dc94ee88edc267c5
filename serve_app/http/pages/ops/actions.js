/** What an operator can do to groups, replicas and requests. Each action says its effect before it is done. */

import { confirm } from "./dialogs.js";
import { plural } from "./format.js";
import { post } from "./session.js";

const act = (group, action, body) => post(`/groups/${encodeURIComponent(group)}/${action}`, body);
const underWay = (number) => (number ? `${plural(number, "request")} under way will end` : "Nothing is under way");
const replicasOf = (group) => plural(group.replicas.length, "replica");

/** Ask, then stop sending new requests to a group, or to one of its replicas. */
export function drain(group, replica) {
  const what = replica ? `replica ${replica.id} of ${group.name}` : group.name;
  const running = replica ? replica.running : group.running;
  const alone = replica ? group.replicas.every((each) => each === replica || each.phase !== "ready") : true;
  const others = alone
    ? "Requests go to other groups, or are refused where none can take them."
    : "The group's other replicas take its requests.";
  confirm({
    title: `Drain ${what}?`,
    effect: `${underWay(running)}; nothing new is sent. ${others} It stays so until you resume it.`,
    action: "Drain",
    act: async () => {
      const answer = await act(group.name, "drain", replica ? { replica: replica.id } : {});
      return `Draining ${answer.replicas.join(", ") || what}: ${plural(answer.running, "request")} under way.`;
    },
  });
}

/** Ask, then undo a drain. */
export function resume(group, replica) {
  const what = replica ? `replica ${replica.id} of ${group.name}` : group.name;
  confirm({
    title: `Resume ${what}?`,
    effect: "New requests are sent there again at once.",
    action: "Resume",
    act: async () => {
      const answer = await act(group.name, "resume", replica ? { replica: replica.id } : {});
      return `Resumed ${answer.replicas.join(", ") || what}.`;
    },
  });
}

/** Ask, then replace a group's replicas one by one. */
export function restart(group) {
  const one = group.replicas.length === 1 ? " While its only replica is replaced, requests go to other groups." : "";
  confirm({
    title: `Restart ${group.name}?`,
    effect: `${replicasOf(group)}, one after the other: drained, ended, replaced. ${underWay(group.running)} first.${one}`,
    action: "Restart",
    danger: true,
    act: async () =>
      `Restarting ${(await act(group.name, "restart")).restarting.join(", ")} of ${group.name}; progress is shown in the group.`,
  });
}

/** Ask for bounds, then set how many replicas a group may have. */
export function scale(group) {
  confirm({
    title: `Scale ${group.name}`,
    effect: [
      `Now ${group.bounds.min} to ${group.bounds.max} replicas, ${group.replicas.length} exist.`,
      "More replicas take more memory, and time to start; surplus ones end when their requests have ended.",
      "The next deployment of the configuration sets its own figures again.",
    ].join(" "),
    action: "Scale",
    fields: [
      { name: "min", label: "Minimum", value: group.bounds.min, required: true },
      { name: "max", label: "Maximum", value: group.bounds.max, hint: "Empty: as it is." },
    ],
    act: async ({ min, max }) => {
      const { before, bounds } = await act(group.name, "scale", max === undefined ? { min } : { min, max });
      return `${group.name}: ${before.min} to ${before.max} replicas before, ${bounds.min} to ${bounds.max} now.`;
    },
  });
}

/** Ask, then start a group that sleeps. */
export function wake(group) {
  confirm({
    title: `Wake ${group.name}?`,
    effect: "A replica starts and takes its memory. Without requests it goes back to sleep by itself.",
    action: "Wake",
    act: async () => {
      await act(group.name, "wake");
      return `${group.name} is starting.`;
    },
  });
}

/** Ask, then end a request under way. */
export function cancelRequest(request) {
  confirm({
    title: "Cancel this request?",
    effect: `${request.id} of ${request.key} ends now, after ${plural(request.completion_tokens, "token")}; its client gets no more.`,
    action: "Cancel the request",
    danger: true,
    act: async () => {
      await post(`/requests/${encodeURIComponent(request.id)}/cancel`);
      return `Cancelled ${request.id}.`;
    },
  });
}
