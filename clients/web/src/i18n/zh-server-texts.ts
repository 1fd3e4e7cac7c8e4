/**
 * The texts of the services and of the page's server, in Chinese: they speak English. A text that is missing here is shown by
 * the meaning of its code. Names stand in quotes, as Python writes them.
 */

const NAME = `['"]([^]*)['"]`;
const said = (text: string) => new RegExp(`^${text}$`);

export const SERVER_TEXTS: readonly (readonly [text: RegExp, meaning: (...groups: string[]) => string])[] = [
  // chat
  [said(`You are not in room ${NAME}: join it first\\.`), (room) => `你不在房间“${room}”里，请先加入。`],
  [said(`${NAME} is a room of two: .*`), () => "这是两个人的房间：不能创建、加入或离开，也没有邀请。"],
  [said(`Room ${NAME} is private: .*`), (room) => `房间“${room}”是私密的：请成员邀请你。`],
  [said(`There is a room ${NAME} already: .*`), (room) => `房间“${room}”已存在：请加入它，或换一个名称。`],
  [said(`${NAME} is in room ${NAME} already\\.`), (user, room) => `${user} 已经在房间“${room}”里。`],
  [said(`There is no message [\\d,]+ in room ${NAME}\\.`), (room) => `房间“${room}”里没有这条消息。`],
  [said("Message [\\d,]+ was written by another user: .*"), () => "这条消息是别人写的：只有作者可以更改。"],
  [said("Message [\\d,]+ is deleted\\."), () => "这条消息已删除。"],
  [said(`You do not own room ${NAME}: .*`), (room) => `房间“${room}”不是你的：只有私密房间的房主可以这样做。`],
  [said(`${NAME} is not in room ${NAME}\\.`), (user, room) => `${user} 不在房间“${room}”里。`],
  [said(`You cannot remove yourself from room ${NAME}: .*`), () => "不能移出自己：请离开房间。"],
  [
    said(`Room ${NAME} has ([\\d,]+) members, and at most ([\\d,]+) can be removed with it: .*`),
    (room, members, most) => `房间“${room}”有 ${members} 位成员，最多只能随房间移出 ${most} 位：请先移出一些成员。`,
  ],
  [said(`You have no invitation to room ${NAME}\\.`), (room) => `你没有收到房间“${room}”的邀请。`],
  [said(`You block ${NAME}: .*`), (user) => `你屏蔽了 ${user}：请先取消屏蔽再写信。`],
  [said("user: must not be yourself"), () => "不能是你自己。"],
  [said("to: [\\d,]+ letters are too long .*"), () => "两个名字太长，无法组成两个人的房间。"],
  [said("You are in ([\\d,]+) rooms of two, which is the limit"), (n) => `你已有 ${n} 个私信对话，达到上限。`],
  [said("You are in ([\\d,]+) rooms, which is the limit: .*"), (n) => `你已在 ${n} 个房间里，达到上限：请先离开一个。`],
  [said(`${NAME} is in ([\\d,]+) rooms.*`), (user, n) => `${user} 已在 ${n} 个房间里，达到上限。`],
  [said("You have made ([\\d,]+) rooms within 24 hours, .*"), (n) => `24 小时内你已新建 ${n} 个房间，达到上限：请以后再试。`],
  [said(`${NAME} has not answered your last invitation yet: .*`), (user) => `${user} 还没有答复你上次的邀请：请等对方加入。`],
  [said(`${NAME} has ([\\d,]+) open invitations, .*`), (user, n) => `${user} 有 ${n} 个未答复的邀请，达到上限。`],
  [said("You block ([\\d,]+) users, which is the limit: .*"), (n) => `你已屏蔽 ${n} 人，达到上限：请先取消一个。`],
  [said("What you send reaches more people than .*"), () => "你发送的内容送达的人太多了，请慢一点。"],
  // orders
  [said(`There is no order ${NAME}\\.`), (order) => `没有订单 ${order}。`],
  [said(`There is an order ${NAME} already; .*`), (order) => `订单 ${order} 已存在：请换一个编号，或不填。`],
  [said(`Order ${NAME} is (\\w+) and cannot be cancelled\\.`), (order) => `订单 ${order} 的状态不允许取消。`],
  // inventory and notifications
  [said(`There is no item ${NAME} in the inventory\\.`), (sku) => `库存里没有商品 ${sku}。`],
  [said("Setting stock needs a token .*"), () => "你没有设置库存的权限。"],
  [
    said(`${NAME}: ([\\d,]+) are reserved for orders, .*`),
    (sku, n) => `${sku}：已为订单预留 ${n} 件，库存不能更少；请先取消订单。`,
  ],
  [said("You watch ([\\d,]+) items, and the limit is .*"), (n) => `你已关注 ${n} 个商品，达到上限：请先取消一个。`],
  [said("The address is set by the operators .*"), () => "邮箱地址由此系统的管理员设置。"],
  [said("The address was changed (\\d+) times today, .*"), (n) => `今天已更改 ${n} 次邮箱地址，达到上限：请明天再试。`],
  // the page's server
  [said(`user ${NAME} cannot be used: .*`), () => "这个名字不能用：太长，或含有不允许的字符。"],
];
