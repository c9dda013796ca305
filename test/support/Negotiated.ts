import type { Negotiated } from "../../src/services/Status.ts"

/** What a server without limits grants on MQTT 5.0. */
export const negotiated: Negotiated = {
  protocolVersion: 5,
  clientId: "c",
  sessionPresent: false,
  sessionExpiryInterval: 60,
  keepAliveMillis: 0,
  sendWindow: 65_535,
  maximumQoS: 2,
  retainAvailable: true,
  maximumPacketSize: Infinity,
  topicAliasMaximum: 0,
  wildcardSubscriptionAvailable: true,
  subscriptionIdentifierAvailable: true,
  sharedSubscriptionAvailable: true,
  responseInformation: undefined,
  userProperties: []
}
