/**
 * The actions and pushes of the services that come with Towpath, for the types of `request` and `on`.
 *
 * Written by `make docs` from the services' handlers and their models. Add your own by declaration merging:
 *
 *     declare module "@towpath/client" {
 *       interface Actions {
 *         "delivery.estimate": { data: { postcode: string }; answer: { days: number } };
 *       }
 *     }
 */
export interface Actions {
  "chat.create": { data: CreateRoom; answer: Created };
  "chat.join": { data: JoinRoom; answer: Joined };
  "chat.leave": { data: LeaveRoom; answer: Left };
  "chat.invite": { data: Invite; answer: Invited };
  "chat.decline": { data: Decline; answer: Declined };
  "chat.remove": { data: RemoveMember; answer: Removed };
  "chat.transfer": { data: TransferRoom; answer: Transferred };
  "chat.drop": { data: DropRoom; answer: Dropped };
  "chat.block": { data: Block; answer: Blocking };
  "chat.unblock": { data: Unblock; answer: Blocking };
  "chat.blocked": { data: Record<string, never>; answer: BlockedList };
  "chat.send": { data: SendMessage; answer: Sent };
  "chat.direct": { data: SendDirect; answer: Sent };
  "chat.edit": { data: EditMessage; answer: MessageChanged };
  "chat.delete": { data: DeleteMessage; answer: MessageChanged };
  "chat.history": { data: ReadHistory; answer: History };
  "chat.rooms": { data: Record<string, never>; answer: RoomList };
  "chat.find": { data: FindRooms; answer: FoundRooms };
  "chat.members": { data: ListMembers; answer: MemberList };
  "chat.read": { data: MarkRead; answer: ReadPosition };
  "chat.typing": { data: Typing; answer: Record<string, never> };
  "chat.resume": { data: Resume; answer: ResumeAnswer };
  "inventory.get": { data: GetStock; answer: StockView };
  "inventory.list": { data: ListStock; answer: StockPage };
  "inventory.set": { data: SetStock; answer: StockView };
  "inventory.watch": { data: WatchStock; answer: StockView };
  "inventory.unwatch": { data: UnwatchStock; answer: Unwatched };
  "inventory.resume": { data: Resume; answer: ResumeAnswer };
  "notification.list": { data: ListNotifications; answer: NotificationPage };
  "notification.read": { data: ReadNotifications; answer: NotificationsRead };
  "notification.preferences": { data: Preferences; answer: PreferencesAnswer };
  "notification.resume": { data: Resume; answer: ResumeAnswer };
  "order.submit": { data: SubmitOrder; answer: OrderAnswer };
  "order.cancel": { data: CancelOrder; answer: CancelAnswer };
  "order.get": { data: GetOrder; answer: OrderFound };
  "order.list": { data: ListOrders; answer: OrderPage };
  "order.resume": { data: Resume; answer: ResumeAnswer };
}

/** Each push with its data. */
export interface Pushes {
  "chat.message": Message;
  "chat.edited": MessageEdited;
  "chat.deleted": MessageDeleted;
  "chat.joined": MemberChange;
  "chat.left": MemberChange;
  "chat.owner": OwnerChange;
  "chat.dropped": RoomDropped;
  "chat.invited": Invitation;
  "chat.typing": TypingPush;
  "chat.read": ReadPush;
  "chat.presence": PresencePush;
  "chat.crowd": CrowdCounted;
  "inventory.updated": StockState;
  "notification.new": Notification;
  "notification.read": NotificationsRead;
  "order.updated": OrderState;
}

/** `data` of `chat.create`. */
export interface CreateRoom {
  room: string;
  title?: string;
  private?: boolean;
}

/** Answer to `chat.create`. */
export interface Created {
  room: string;
}

export interface JoinRoom {
  room: string;
}

/** Answer to `chat.join`: the position of the room's stream, and the members. */
export interface Joined {
  room: string;
  seq: number;
  members: string[];
  count?: number;
}

export interface LeaveRoom {
  room: string;
}

/** Answer to `chat.leave`. */
export interface Left {
  room: string;
}

export interface Invite {
  room: string;
  user: string;
}

/** Answer to `chat.invite`. */
export interface Invited {
  room: string;
  user: string;
}

export interface Decline {
  room: string;
}

/** Answer to `chat.decline`. */
export interface Declined {
  room: string;
}

export interface RemoveMember {
  room: string;
  user: string;
}

/** Answer to `chat.remove`. */
export interface Removed {
  room: string;
  user: string;
}

/** `data` of `chat.transfer`; `user` is the member who becomes the owner. */
export interface TransferRoom {
  room: string;
  user: string;
}

/** Answer to `chat.transfer`. */
export interface Transferred {
  room: string;
  owner: string;
}

export interface DropRoom {
  room: string;
}

/** Answer to `chat.drop`. */
export interface Dropped {
  room: string;
}

export interface Block {
  user: string;
}

/** Answer to `chat.block` and `chat.unblock`. */
export interface Blocking {
  user: string;
}

export interface Unblock {
  user: string;
}

/** One entry of `chat.blocked`; `since` is Unix milliseconds. */
export interface BlockedUser {
  user: string;
  since: number;
}

/** Answer to `chat.blocked`: the users whom the asking user blocks, by name. */
export interface BlockedList {
  users: BlockedUser[];
}

export interface SendMessage {
  room: string;
  text: string;
  client_ref?: string;
}

/** Answer to `chat.send` and `chat.direct`. `sent_at` is Unix milliseconds. */
export interface Sent {
  room: string;
  seq: number;
  sent_at: number;
}

export interface SendDirect {
  to: string;
  text: string;
}

/** `data` of `chat.edit`; `seq` is the message's. */
export interface EditMessage {
  room: string;
  seq: number;
  text: string;
}

/** Answer to `chat.edit` and `chat.delete`; `seq` is the message's. */
export interface MessageChanged {
  room: string;
  seq: number;
}

/** `data` of `chat.delete`; `seq` is the message's. */
export interface DeleteMessage {
  room: string;
  seq: number;
}

export interface ReadHistory {
  room: string;
  before_seq?: number;
  after_seq?: number;
  limit?: number;
}

/** Push `chat.message`, and one entry of a history. Times are Unix milliseconds. */
export interface Message {
  room: string;
  seq: number;
  user: string;
  text: string;
  sent_at: number;
  client_ref?: string;
  edited_at?: number;
  deleted_at?: number;
  deleted?: true;
  hidden?: true;
}

/** Answer to `chat.history`, oldest first. */
export interface History {
  room: string;
  messages: Message[];
  has_more: boolean;
  seq: number;
}

/** One entry of `chat.rooms`. */
export interface RoomSummary {
  room: string;
  title: string;
  seq: number;
  read_seq: number;
  unread: number;
  private?: true;
  owner?: string;
}

/** Push `chat.invited`, and one entry of `chat.rooms`: `by` asks the user to join. */
export interface Invitation {
  room: string;
  title: string;
  by: string;
}

/** Answer to `chat.rooms`, by name; the first 1,000 of each kind. `invitations` is there if there are any. */
export interface RoomList {
  rooms: RoomSummary[];
  invitations?: Invitation[];
}

/** `data` of `chat.find`: public rooms, whether the user is in them or not. */
export interface FindRooms {
  prefix?: string;
  limit?: number;
  cursor?: string;
}

/** One entry of `chat.find`; `members` is how many are in it. */
export interface FoundRoom {
  room: string;
  title: string;
  members: number;
}

/** Answer to `chat.find`, by name in the order of code points; `cursor` asks for the next page. */
export interface FoundRooms {
  rooms: FoundRoom[];
  cursor?: string;
}

export interface ListMembers {
  room: string;
}

/** One entry of `chat.members`; `online` says whether the user has a connection open. */
export interface MemberState {
  user: string;
  online: boolean;
}

/** Answer to `chat.members`, by name; of a crowd the first 100. */
export interface MemberList {
  room: string;
  members: MemberState[];
  seq: number;
  count?: number;
}

/** `data` of `chat.read`: the user has read all up to `seq`. */
export interface MarkRead {
  room: string;
  seq: number;
}

/** Answer to `chat.read`: how far the user has read now. */
export interface ReadPosition {
  room: string;
  seq: number;
}

export interface Typing {
  room: string;
}

/** `data` of `<domain>.resume`. */
export interface Resume {
  positions: Record<string, number>;
}

/** The position of one stream after a resume. */
export interface Resumed {
  seq: number;
  complete: boolean;
}

/** Answer to `<domain>.resume`. */
export interface ResumeAnswer {
  streams: Record<string, Resumed>;
}

/** Push `chat.edited`; `seq` is the message's. `edited_at` is Unix milliseconds. */
export interface MessageEdited {
  room: string;
  seq: number;
  user: string;
  text: string;
  edited_at: number;
  client_ref?: string;
  deleted?: true;
  hidden?: true;
}

/** Push `chat.deleted`; `seq` is the message's. `deleted_at` is Unix milliseconds. */
export interface MessageDeleted {
  room: string;
  seq: number;
  user: string;
  deleted_at: number;
}

/** Pushes `chat.joined` and `chat.left`; `by` is the owner who removed the user, if one did. */
export interface MemberChange {
  room: string;
  seq: number;
  user: string;
  by?: string;
}

/** Push `chat.owner`: `user` owns the room now. */
export interface OwnerChange {
  room: string;
  seq: number;
  user: string;
}

/** Push `chat.dropped`: its owner `by` deleted the room. */
export interface RoomDropped {
  room: string;
  by: string;
}

/** Push `chat.typing`. */
export interface TypingPush {
  room: string;
  user: string;
}

/** Push `chat.read`: `user` has read all up to `seq`. */
export interface ReadPush {
  room: string;
  user: string;
  seq: number;
}

/** Push `chat.presence`: the user's first connection is open, or the last one is gone. */
export interface PresencePush {
  room: string;
  user: string;
  online: boolean;
}

/** Push `chat.crowd`, at most once a second, instead of a push for each change in a room of many members. */
export interface CrowdCounted {
  room: string;
  members: number;
  online: number;
  seq: number;
}

export interface GetStock {
  sku: string;
}

/** The stock of an item in an answer. */
export interface StockView {
  sku: string;
  on_hand: number;
  reserved: number;
  available: number;
  revision: number;
  seq: number;
}

/** `data` of `inventory.list`. */
export interface ListStock {
  limit?: number;
  cursor?: string;
}

/** Answer to `inventory.list`, by the names of the items; `cursor` asks for the next page. */
export interface StockPage {
  items: StockView[];
  cursor?: string;
}

/** `data` of `inventory.set`. */
export interface SetStock {
  sku: string;
  on_hand: number;
}

export interface WatchStock {
  sku: string;
}

export interface UnwatchStock {
  sku: string;
}

/** Answer to `inventory.unwatch`. */
export interface Unwatched {
  sku: string;
}

/** Push `inventory.updated`. */
export interface StockState {
  sku: string;
  on_hand: number;
  reserved: number;
  available: number;
  revision: number;
}

/** `data` of `notification.list`: the newest, or those before `before_seq`. */
export interface ListNotifications {
  limit?: number;
  before_seq?: number;
}

/** Push `notification.new`, and one entry of `notification.list`. */
export interface Notification {
  id: string;
  seq: number;
  kind: string;
  title: string;
  text: string;
  link?: string;
  created_at: number;
}

/** Answer to `notification.list`, newest first. */
export interface NotificationPage {
  notifications: Notification[];
  seq: number;
  read_seq: number;
  unread: number;
  has_more: boolean;
}

/** `data` of `notification.read`: all up to this `seq` are read. */
export interface ReadNotifications {
  up_to: number;
}

/** Answer to `notification.read`, and the push of that name to the user's connections. */
export interface NotificationsRead {
  read_seq: number;
  unread: number;
}

/** `data` of `notification.preferences`: changes the fields that it has; `null` is the default. */
export interface Preferences {
  email?: string;
  language?: "en" | "zh";
  kinds?: ("order.created" | "order.confirmed" | "order.rejected" | "order.paid" | "order.packed" | "order.shipped" | "order.delivered" | "order.cancelled" | "order.refunded" | "chat.direct" | "chat.invited")[];
}

/** Answer to `notification.preferences`: all of them, as they are now. */
export interface PreferencesAnswer {
  email?: string;
  language: "en" | "zh";
  kinds: ("order.created" | "order.confirmed" | "order.rejected" | "order.paid" | "order.packed" | "order.shipped" | "order.delivered" | "order.cancelled" | "order.refunded" | "chat.direct" | "chat.invited")[];
}

export interface Item {
  sku: string;
  quantity: number;
  unit_price: number | string;
}

export interface SubmitOrder {
  order_id?: string;
  items?: Item[];
  amount?: number | string;
  currency?: string;
}

/** States of an order. */
export type Status =
  "submitted" | "confirmed" | "rejected" | "paid" | "packed" | "shipped" | "delivered" | "cancelled" | "refunded";

/** Answer to `order.submit`. */
export interface OrderAnswer {
  order_id: string;
  status: Status;
  revision: number;
  amount: string;
  currency: string;
}

export interface CancelOrder {
  order_id: string;
  reason?: string;
}

/** Answer to `order.cancel`. */
export interface CancelAnswer {
  order_id: string;
  status: Status;
  revision: number;
}

export interface GetOrder {
  order_id: string;
}

export interface ItemView {
  sku: string;
  quantity: number;
  unit_price: string;
}

/** Answer to `order.get`. */
export interface OrderFound {
  order_id: string;
  status: Status;
  revision: number;
  amount?: string;
  currency?: string;
  refunded?: string;
  updated_at: number;
  detail?: unknown;
  created_at: number;
  items?: ItemView[];
  seq: number;
}

/** `data` of `order.list`. */
export interface ListOrders {
  limit?: number;
  cursor?: string;
}

/** One entry of `order.list`. */
export interface OrderView {
  order_id: string;
  status: Status;
  revision: number;
  amount?: string;
  currency?: string;
  refunded?: string;
  updated_at: number;
  detail?: unknown;
  created_at: number;
  items?: ItemView[];
}

/** Answer to `order.list`, newest first. */
export interface OrderPage {
  orders: OrderView[];
  seq: number;
  cursor?: string;
}

/** Push `order.updated`. `updated_at` is Unix milliseconds. */
export interface OrderState {
  order_id: string;
  status: Status;
  revision: number;
  amount?: string;
  currency?: string;
  refunded?: string;
  updated_at: number;
  detail?: unknown;
}
