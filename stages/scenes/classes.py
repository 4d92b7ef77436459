"""The Vistas labels that the painter uses, as label ids."""

from typing import Final

from stages.vistas.labels import BY_NAME

CURB: Final = BY_NAME["construction--barrier--curb"].id
FENCE: Final = BY_NAME["construction--barrier--fence"].id
ROAD: Final = BY_NAME["construction--flat--road"].id
SIDEWALK: Final = BY_NAME["construction--flat--sidewalk"].id
BUILDING: Final = BY_NAME["construction--structure--building"].id
PERSON: Final = BY_NAME["human--person--individual"].id
PERSON_GROUP: Final = BY_NAME["human--person--person-group"].id
DASHED: Final = BY_NAME["marking--continuous--dashed"].id
SOLID: Final = BY_NAME["marking--continuous--solid"].id
ZEBRA: Final = BY_NAME["marking--discrete--crosswalk-zebra"].id
SKY: Final = BY_NAME["nature--sky"].id
TERRAIN: Final = BY_NAME["nature--terrain"].id
VEGETATION: Final = BY_NAME["nature--vegetation"].id
STREET_LIGHT: Final = BY_NAME["object--street-light"].id
POLE: Final = BY_NAME["object--support--pole"].id
TRAFFIC_LIGHT: Final = BY_NAME["object--traffic-light--general-upright"].id
TRAFFIC_SIGN: Final = BY_NAME["object--traffic-sign--front"].id
TRASH_CAN: Final = BY_NAME["object--trash-can"].id
BICYCLE: Final = BY_NAME["object--vehicle--bicycle"].id
BUS: Final = BY_NAME["object--vehicle--bus"].id
CAR: Final = BY_NAME["object--vehicle--car"].id
EGO_VEHICLE: Final = BY_NAME["void--ego-vehicle"].id
